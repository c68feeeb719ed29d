"""Statistics of a table: of its items, and of the items drawn from it."""

from __future__ import annotations

import numpy as np

from common.types import PRIORITIES, TIMES, ShardStatistics
from replay_server.table import PRIORITY_FLOOR, Table
from replay_server.table_counts import DrawCounts


def take_statistics(table: Table) -> ShardStatistics:
    """Histograms over all live items, and means over the items drawn since the last call.

    Work grows with the table (milliseconds for a million items).
    """
    live = table.live_slots()
    times = table.times_sampled[live]
    # 0, 1, 2, 3–4, 5–8, …: the exponent of (times − ½) is that of the power of two above it.
    bins = np.where(times > 0, np.frexp(times - 0.5)[1] + 1, 0)
    times_sampled = np.bincount(np.minimum(bins, len(TIMES) - 1), minlength=len(TIMES))
    priorities: list[int] = []
    if table.alpha > 0:
        priority = table.tree.get(live) ** (1 / table.alpha) - PRIORITY_FLOOR
        edges = 10.0 ** np.arange(-4, len(PRIORITIES) - 5)
        counts = np.bincount(np.searchsorted(edges, priority, "right"), minlength=len(edges) + 1)
        priorities = counts.tolist()
    draws, table.draws = table.draws, DrawCounts()
    drawn = max(1, draws.count)
    return ShardStatistics(
        summary=table.summary(),
        times_sampled=times_sampled.tolist(),
        priorities=priorities,
        drawn=draws.count,
        age=draws.age_sum / drawn,
        version_lag=draws.lag_sum / drawn,
    )
