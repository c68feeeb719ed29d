"""An object store of the tests' own: a server on this machine that speaks S3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def object_store(bucket: str) -> Iterator[str]:
    """A server with an empty bucket; its URL. The environment leads all S3 clients to the server.

    Processes that start within the block inherit the environment. Skips the test without moto
    and s3fs.
    """
    moto = pytest.importorskip("moto.server", reason="needs moto (pip install 'moto[s3,server]')")
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            patch.setenv("AWS_ACCESS_KEY_ID", "key")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
            yield f"s3://{bucket}"
    finally:
        server.stop()
