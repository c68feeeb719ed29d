"""Storages in an object store that speaks S3: a server of the tests' own."""

from __future__ import annotations

import time
import uuid
from importlib.util import find_spec

import pytest

from common.errors import StorageError
from common.storage import open_storage
from support.storage_contract import StorageContract, content

pytestmark = [
    pytest.mark.skipif(
        find_spec("moto") is None or find_spec("s3fs") is None,
        reason="moto and s3fs are not installed (make setup)",
    ),
    # botocore and moto still ask for the time in a way that Python no longer likes.
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning"),
    # aiohttp's sessions of s3fs are closed when they are collected, not before.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
]


@pytest.fixture(scope="module")
def s3_endpoint():
    """A server that speaks S3, on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def use_s3(monkeypatch, endpoint):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "name")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()  # an earlier one keeps its endpoint


@pytest.fixture
def url(monkeypatch, s3_endpoint):
    """A URL below a bucket of its own."""
    import s3fs

    use_s3(monkeypatch, s3_endpoint)
    bucket = f"bucket-{uuid.uuid4()}"
    s3fs.S3FileSystem().mkdir(bucket)
    yield f"s3://{bucket}/runs/one"
    s3fs.S3FileSystem.clear_instance_cache()


class TestStorage(StorageContract):
    """In an object store."""


def test_a_bucket_that_is_not_there_is_not_made(monkeypatch, s3_endpoint):
    import s3fs

    use_s3(monkeypatch, s3_endpoint)
    bucket = f"misspelt-{uuid.uuid4()}"
    storage = open_storage(f"s3://{bucket}/run")
    assert storage.sizes() == {}
    with pytest.raises(StorageError, match=r"s3://misspelt\S+/run/a/b: .*bucket does not exist"):
        storage.write("a/b", b"1")
    with pytest.raises(FileNotFoundError):
        storage.read("a/b")
    assert bucket not in s3fs.S3FileSystem().ls("/")


def test_what_another_process_puts_and_deletes_is_seen_at_once(url):
    import boto3

    bucket = url.split("/")[2]
    client = boto3.client("s3")
    storage = open_storage(url)
    storage.write("a/b", b"1")
    assert storage.sizes() == {"a/b": 1}
    client.put_object(Bucket=bucket, Key="runs/one/a/c", Body=b"22")
    assert storage.sizes() == {"a/b": 1, "a/c": 2}
    client.put_object(Bucket=bucket, Key="runs/one/a/b", Body=b"333")
    assert content(storage, "a/b") == b"333"
    client.delete_object(Bucket=bucket, Key="runs/one/a/c")
    assert storage.sizes() == {"a/b": 3}
    client.close()


def test_an_endpoint_that_does_not_answer_is_a_storage_error_soon(monkeypatch):
    use_s3(monkeypatch, "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")  # by default five, with pauses
    storage = open_storage("s3://bucket/run")
    begin = time.monotonic()
    with pytest.raises(StorageError, match=r"s3://bucket/run/a: Could not connect"):
        storage.write("a", b"1")
    assert time.monotonic() - begin < 60
