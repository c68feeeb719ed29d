"""Statistics of the replay memory's shards, for report lines."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from common.types import PRIORITIES, TIMES, ShardStatistics, ShardSummary


def over_all_shards(shards: list[ShardStatistics]) -> ShardStatistics:
    """Statistics of the whole memory: sums of counts, and means over all sampled items.

    The age of an item is counted in inserts into its own shard.
    """
    summaries = [one.summary for one in shards]
    totals = {
        name: sum(getattr(summary, name) for summary in summaries)
        for name in ShardSummary.__dataclass_fields__
        if name not in ("shard", "incarnation")
    }
    drawn = sum(one.drawn for one in shards)
    return ShardStatistics(
        summary=ShardSummary(shard=-1, incarnation=-1, **totals),
        times_sampled=[
            sum(counts) for counts in zip(*(s.times_sampled for s in shards), strict=True)
        ],
        priorities=[sum(counts) for counts in zip(*(s.priorities for s in shards), strict=True)],
        drawn=drawn,
        age=sum(s.age * s.drawn for s in shards) / max(1, drawn),
        version_lag=sum(s.version_lag * s.drawn for s in shards) / max(1, drawn),
    )


def plain(statistics: ShardStatistics) -> dict[str, Any]:
    """Statistics as JSON values; a histogram maps each bin to its count."""
    summary = {k: v for k, v in asdict(statistics.summary).items() if v != -1}
    return {
        **summary,
        "drawn": statistics.drawn,
        "age": round(statistics.age, 1),
        "version_lag": round(statistics.version_lag, 3),
        "times_sampled": dict(zip(TIMES, statistics.times_sampled, strict=True)),
        "priorities": dict(zip(PRIORITIES, statistics.priorities, strict=False)),
    }
