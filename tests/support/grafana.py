"""Queries of the Grafana dashboard and of the alert rules."""

from __future__ import annotations

import json
import re

import yaml

from support.paths import ROOT

DASHBOARD = ROOT / "deploy" / "clusters" / "grafana.json"
ALERTS = ROOT / "deploy" / "clusters" / "alerts.yml"


def queried_metrics() -> set[str]:
    """Names of the metrics in all queries of all panels."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return set(re.findall(r"ray_raydqn_\w+", " ".join(queries)))


def alert_rules() -> list[dict]:
    """All alert rules for Prometheus."""
    document = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def alerted_metrics() -> set[str]:
    """Names of the metrics in all alert rules."""
    return set(re.findall(r"ray_raydqn_\w+", " ".join(rule["expr"] for rule in alert_rules())))
