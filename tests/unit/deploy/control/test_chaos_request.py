"""`raydqn chaos`: the request that a run finds in its control file."""

from __future__ import annotations

import pytest

from common.errors import UserError
from common.parts import Role
from deploy.control.chaos import KINDS, parse_crash


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_names_a_kind_and_a_number(kind):
    assert parse_crash({"kind": kind, "number": 3}) == (kind, 3)


@pytest.mark.parametrize(
    "request_",
    [{}, [], "actor", {"kind": "actor"}, {"kind": "driver", "number": 1}]
    + [{"kind": "actor", "number": number} for number in (-1, True, "1", 1.0, None)],
)
def test_anything_else_is_refused_in_one_line(request_):
    with pytest.raises(UserError, match=r"^crash: kind=.* number=.*: must be one of actor, shard"):
        parse_crash(request_)


def test_the_weight_store_is_known_by_its_earlier_name_too():
    for kind in ("weight-store", "variables"):
        assert parse_crash({"kind": kind, "number": 0}) == (Role.WEIGHT_STORE, 0)
