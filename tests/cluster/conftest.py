"""What the tests of clusters share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.hosts import Hosts, missing
from support.three_hosts import Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("cluster")
    # Not the project: what runs on the hosts was brought there.
    hosts = Hosts(3, folder / "hosts", [Path(sys.prefix), Path(sys.base_prefix)])
    try:
        yield Cluster(hosts, folder)
    finally:
        hosts.close()
