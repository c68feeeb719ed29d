"""Private names of Ray's: they exist in the installed release, and only one file imports them."""

from __future__ import annotations

import importlib
import inspect
import re
from functools import reduce

import pytest

import ray
from common.version import PACKAGES
from deploy.runtime.ray_private import (
    PRIVATE_NAMES,
    cluster_file_schema,
    messages_to,
    no_other_ray,
)
from support.paths import ROOT

HOME = ROOT / "deploy" / "runtime" / "ray_private.py"


@pytest.mark.parametrize("private", PRIVATE_NAMES, ids=lambda p: f"{p.module}.{p.name}")
def test_each_private_name_is_in_the_installed_ray(private):
    name, _, parameter = private.name.partition("(")
    try:
        found = reduce(getattr, name.split("."), importlib.import_module(private.module))
        there = not parameter or parameter in inspect.signature(found).parameters
    except (ImportError, AttributeError):
        there = False
    assert there, f"Ray {ray.__version__} has moved {private.module}.{name}: {private.history}"


def test_the_schema_of_cluster_files_comes_with_ray():
    assert "available_node_types" in cluster_file_schema()["properties"]


def test_messages_of_a_cluster_are_handed_on_and_not_printed(capsys):
    from ray._private import worker

    before, received = worker.print_to_stdstream, []
    message = {"lines": ["\x1b[33mlow on memory", "second"], "pid": "raylet", "is_err": False}
    with messages_to(received.append):
        worker.print_to_stdstream(message, ignore_prefix=False)
    assert received == ["\x1b[33mlow on memory\nsecond"]
    assert capsys.readouterr() == ("", "")
    assert worker.print_to_stdstream is before


def test_a_thread_that_outlives_its_run_starts_no_other_ray(monkeypatch):
    from ray._private import auto_init_hook

    started = []
    monkeypatch.setattr(ray, "init", lambda: started.append("ray"))
    monkeypatch.setattr(ray, "is_initialized", lambda: bool(started))
    with no_other_ray():
        auto_init_hook.auto_init_ray()
    assert started == []
    auto_init_hook.auto_init_ray()
    assert started == ["ray"], "as before"


USE = re.compile(
    r"^\s*(import|from) ray\.(_|autoscaler)|^\s*from ray\S* import .*\b_\w"
    r"|\bray\._[a-z]|\._actor_id\b|_spill_on_unavailable",
    re.MULTILINE,
)


def test_no_other_file_uses_a_private_name_of_rays():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    using = [path for path in files if USE.search(path.read_text(encoding="utf-8"))]
    assert using == [HOME], "private names of Ray's belong into ray_private.py"
