"""The Grafana dashboard's queries."""

from __future__ import annotations

import json
import re

from support.paths import ROOT

DASHBOARD = ROOT / "deploy" / "clusters" / "grafana.json"


def queried_metrics() -> set[str]:
    """Names of the metrics in all queries of all panels."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return set(re.findall(r"ray_raydqn_\w+", " ".join(queries)))
