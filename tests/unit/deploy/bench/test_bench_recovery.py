"""`raydqn bench recovery`: the count of lost transitions."""

from __future__ import annotations

from deploy.bench.recovery import is_settled


def test_the_loss_is_counted_once_the_new_shard_is_in_the_reports():
    # From a real run: one or two reports do not count the new shard's items yet.
    told = [(66_704, 66_964), (73_806, 40_984), (79_901, 74_819), (85_991, 79_896)]
    told += [(91_071, 85_741), (96_907, 91_574)]
    reports = [{"transitions": inserted, "replay_size": held} for inserted, held in told]
    assert [is_settled(reports[:count]) for count in (4, 5, 6)] == [False, False, True]
