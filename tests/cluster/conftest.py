"""What the tests of clusters share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hosts import Hosts, missing
from three_hosts import ROOT, Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("cluster")
    shared = [ROOT, Path(sys.prefix), Path(sys.base_prefix)]
    hosts = Hosts(3, folder / "hosts", shared)
    try:
        yield Cluster(hosts, folder)
    finally:
        hosts.close()
