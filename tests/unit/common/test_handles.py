import pytest

from common.handles import InlineHandle, Ready


class Counter:
    def __init__(self):
        self.count = 0

    def add(self, amount):
        self.count += amount
        return self.count

    def fail(self):
        raise LookupError("no such thing")


def test_an_inline_call_has_run_when_it_returns():
    counter = Counter()
    future = InlineHandle(counter).call("add", 3)
    assert counter.count == 3
    assert future.done()
    assert future.result() == 3
    assert future.result() == 3  # asking again does not run it again
    assert counter.count == 3


def test_inline_calls_run_in_their_order():
    handle = InlineHandle(Counter())
    futures = [handle.call("add", amount) for amount in (1, 10, 100)]
    assert [future.result() for future in futures] == [1, 11, 111]


def test_an_inline_error_is_raised_at_the_call_where_a_debugger_shows_it():
    with pytest.raises(LookupError, match="no such thing") as caught:
        InlineHandle(Counter()).call("fail")
    assert caught.traceback[-1].name == "fail"


def test_an_unknown_method_is_an_error_at_the_call():
    with pytest.raises(AttributeError, match="nothing"):
        InlineHandle(Counter()).call("nothing")


def test_sharing_inline_hands_on_the_very_same_object():
    value = object()
    assert InlineHandle(Counter()).share(value).result() is value


def test_a_ready_future_gives_its_value_none_included():
    assert Ready(5).result() == 5
    assert Ready(None).result() is None
    assert Ready(None).done()
