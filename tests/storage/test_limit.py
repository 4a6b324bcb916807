"""How long an operation may take, and that nothing outlasts it."""

import threading

import pytest

from orchestrator.storage.errors import NotFoundError, TransientError
from orchestrator.storage.limit import Limit, bounded


def test_a_limit_grows_with_the_bytes_and_ends_with_the_whole() -> None:
    now_s = [0.0]
    limit = Limit(10.0, num_bytes=5 * 2**20, clock=lambda: now_s[0])
    assert limit.left_s == 15.0
    limit.expect(7 * 2**20)
    limit.expect(2**20)
    assert limit.left_s == 17.0
    now_s[0] = 3.0
    assert (limit.spent_s, limit.left_s) == (3.0, 14.0)
    assert limit.part(num_bytes=2**20).left_s == 14.0
    limit.prolong(200.0)
    assert limit.part(num_bytes=2**20).left_s == 91.0
    limit.check()
    now_s[0] = 217.0
    with pytest.raises(TransientError):
        limit.check()


def test_a_call_that_hangs_is_left_behind() -> None:
    never = threading.Event()
    with pytest.raises(TransientError, match="in time"):
        bounded(never.wait, limit=Limit(0.05))
    never.set()


def test_a_call_that_learns_of_more_bytes_has_more_time() -> None:
    now_s = [0.0]
    looked_at = threading.Event()

    def clock() -> float:
        if now_s[0]:
            looked_at.set()
        return now_s[0]

    limit = Limit(0.05, clock=clock)

    def call() -> str:
        limit.expect(2**30)
        now_s[0] = 5.0
        looked_at.wait()  # by the one that waits: it goes on waiting
        return "answer"

    assert bounded(call, limit=limit) == "answer"


def test_errors_come_as_they_are() -> None:
    def call() -> None:
        raise NotFoundError("gone")

    with pytest.raises(NotFoundError, match="gone"):
        bounded(call, limit=Limit(10.0))
