"""The one place that tries again: how often, how long, and what it says in the end."""

import pytest

from orchestrator.errors import UnavailableError, UserError
from orchestrator.storage.errors import TransientError
from orchestrator.storage.limit import Limit
from orchestrator.storage.retry import retrying


class Flaky:
    """Fails some times, then answers."""

    def __init__(self, failures: int) -> None:
        self.calls = 0
        self._failures = failures

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._failures:
            raise TransientError(f"cause {self.calls}")
        return "answer"


def test_what_passes_is_survived() -> None:
    waits_s: list[float] = []
    call = Flaky(5)
    assert retrying(call, what="get x", sleep=waits_s.append) == "answer"
    assert call.calls == 6
    bounds_s = [0.2, 0.4, 0.8, 1.6, 3.2]
    for waited_s, bound_s in zip(waits_s, bounds_s, strict=True):
        assert bound_s / 2 <= waited_s <= bound_s


def test_attempts_are_bounded_and_the_last_cause_told() -> None:
    call = Flaky(100)
    with pytest.raises(UnavailableError, match=r"get x: gave up after 20 tries .*: cause 20"):
        retrying(call, what="get x", sleep=lambda _: None)
    assert call.calls == 20


def test_a_store_that_is_down_for_a_minute_is_outlasted() -> None:
    now_s = [0.0]

    def sleep(seconds: float) -> None:
        now_s[0] += seconds

    def call() -> str:
        if now_s[0] < 60:
            raise TransientError("down")
        return "answer"

    limit = Limit(clock=lambda: now_s[0])
    assert retrying(call, what="get x", sleep=sleep, limit=limit) == "answer"
    assert now_s[0] < 75


def test_time_is_bounded() -> None:
    call = Flaky(100)
    with pytest.raises(UnavailableError, match="after 1 tries"):
        retrying(call, what="get x", limit=Limit(0.1), first_wait_s=0.2, sleep=lambda _: None)
    assert call.calls == 1


def test_other_errors_are_not_tried_again() -> None:
    calls: list[int] = []

    def refuse() -> None:
        calls.append(1)
        raise UserError("no")

    with pytest.raises(UserError):
        retrying(refuse, what="get x", sleep=lambda _: None)
    assert len(calls) == 1
