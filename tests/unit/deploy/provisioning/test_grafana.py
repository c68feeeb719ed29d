"""The Grafana dashboard loads; it and the alert rules query metrics that exist."""

from __future__ import annotations

import json
import re

from common.config_toml import merge
from deploy.launch.presets import make_config
from deploy.launch.train import train
from deploy.runs.metrics_file import read_metrics
from deploy.runtime.run_metrics import metric_name
from support.grafana import DASHBOARD, alert_rules, alerted_metrics, queried_metrics
from support.program import TINY


def test_every_panel_queries_numbers_of_a_report(tmp_path):
    config = make_config(
        "cartpole",
        overrides=merge(
            TINY, {"stop": {"learner_steps": 120}, "checkpoint": {"every_learner_steps": 50}}
        ),
    )
    train(config, tmp_path / "run")
    line = read_metrics(tmp_path / "run")[-1]
    numbers = {
        f"ray_{metric_name(key)}"
        for key, value in line.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    assert len(queried_metrics()) > 10
    assert queried_metrics() <= numbers
    assert alerted_metrics() <= numbers


def test_grafana_can_import_the_dashboard():
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert dashboard["title"] == "raydqn"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"])))
    assert used == variables == {"datasource", "run"}
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places), "no panel hides another"


def test_each_alert_rule_has_what_prometheus_and_its_reader_need():
    rules = alert_rules()
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 5
    for rule in rules:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert "{{ $labels.run }}" in rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
