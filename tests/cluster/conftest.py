"""What the tests of clusters share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.hosts import Hosts, missing
from support.three_hosts import Cluster


@pytest.fixture(scope="session")
def hosts_can_be_made():
    """Skip the test where hosts of their own cannot be made."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, hosts_can_be_made):
    folder = tmp_path_factory.mktemp("cluster")
    # Not the project: what runs on the hosts was brought there.
    hosts = Hosts(3, folder / "hosts", [Path(sys.prefix), Path(sys.base_prefix)], network=0)
    try:
        yield Cluster(hosts, folder)
    finally:
        hosts.close()
