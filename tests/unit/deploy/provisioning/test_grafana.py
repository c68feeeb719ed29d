"""The Grafana dashboard: loads, and asks for metrics that there are."""

from __future__ import annotations

import json
import re

from common.config import merge
from deploy.control.service import metric_name
from deploy.launch.presets import make_config
from deploy.launch.train import train
from deploy.runs.metrics import read_metrics
from support.paths import ROOT
from support.program import TINY

DASHBOARD = ROOT / "deploy" / "clusters" / "grafana.json"


def queries():
    """Every query of every panel."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def asked_for():
    """Names of the metrics in them."""
    return set(re.findall(r"ray_raydqn_\w+", " ".join(queries())))


def test_every_panel_asks_for_numbers_of_a_report(tmp_path):
    config = make_config("cartpole", overrides=merge(TINY, {"stop": {"learner_steps": 120}}))
    train(config, tmp_path / "run")
    line = read_metrics(tmp_path / "run")[-1]
    numbers = {
        f"ray_{metric_name(key)}"
        for key, value in line.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    assert len(asked_for()) > 10
    assert asked_for() <= numbers


def test_it_is_a_dashboard_that_grafana_imports():
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert dashboard["title"] == "raydqn"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"])))
    assert used == variables == {"datasource", "run"}
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places), "no panel hides another"
