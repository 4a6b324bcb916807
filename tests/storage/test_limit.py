"""How long an operation may take, and that nothing outlasts it."""

import os
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


def test_calls_share_a_thread_unless_one_hangs_in_it() -> None:
    never = threading.Event()
    first = bounded(threading.get_ident, limit=Limit(10.0))
    assert bounded(threading.get_ident, limit=Limit(10.0)) == first
    with pytest.raises(TransientError):
        bounded(never.wait, limit=Limit(0.05))
    assert bounded(threading.get_ident, limit=Limit(10.0)) != first
    never.set()


def test_a_thread_that_was_left_behind_ends_with_its_call() -> None:
    begun, go_on = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def call() -> None:
        threads.append(threading.current_thread())
        begun.set()
        go_on.wait()

    with pytest.raises(TransientError):
        bounded(call, limit=Limit(0.5))
    assert begun.wait(60)
    go_on.set()
    threads[0].join(60)
    assert not threads[0].is_alive()


def test_a_forked_child_waits_for_threads_of_its_own() -> None:
    bounded(threading.get_ident, limit=Limit(10.0))
    child = os.fork()
    if not child:
        os._exit(bounded(lambda: 7, limit=Limit(10.0)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
