"""How long one operation on a store may take, all its tries together."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from queue import Empty, SimpleQueue
from typing import NoReturn, TypeAlias, TypeVar

from orchestrator.storage.errors import TransientError

T = TypeVar("T")
_Worker: TypeAlias = "SimpleQueue[Callable[[], None] | None]"  # calls for a thread; None ends it

TOTAL_S = 90.0  # of an operation, besides its bytes
LEAST_BYTES_PER_S = 2**20  # what a store that works moves at least


class Limit:
    """The moment by which an operation is over: ``total_s`` and a second for every MiB.

    Args:
        total_s: seconds for the operation itself.
        num_bytes: what it moves, as far as it is known.
        clock: seconds since some moment.
    """

    def __init__(
        self,
        total_s: float | None = None,
        *,
        num_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._started_s = clock()
        self._total_s = TOTAL_S if total_s is None else total_s
        self._num_bytes = num_bytes
        self._outer: Limit | None = None

    @property
    def spent_s(self) -> float:
        """Seconds since the operation began."""
        return self._clock() - self._started_s

    @property
    def left_s(self) -> float:
        """Seconds until it must be over; below 0 afterwards."""
        left_s = self._total_s + self._num_bytes / LEAST_BYTES_PER_S - self.spent_s
        return left_s if self._outer is None else min(left_s, self._outer.left_s)

    def expect(self, num_bytes: int) -> None:
        """Time for so many bytes in all, once their number is known."""
        self._num_bytes = max(self._num_bytes, num_bytes)

    def prolong(self, seconds: float) -> None:
        """More time, for an operation of several requests."""
        self._total_s += seconds

    def part(self, *, num_bytes: int) -> "Limit":
        """A limit of a part of the operation, over no later than the whole."""
        part = Limit(num_bytes=num_bytes, clock=self._clock)
        part._outer = self
        return part

    def check(self) -> None:
        """Raises TransientError when the time is up."""
        if self.left_s <= 0:
            raise TransientError("its time was up")


def bounded(call: Callable[[], T], *, limit: Limit) -> T:
    """Calls in another thread, which is left behind when the time is up.

    A socket's timeout starts again with every byte, so nothing else bounds an answer that
    trickles. A thread that was left behind ends with its request; it neither tries again nor keeps
    a process alive.

    Raises:
        TransientError: if no answer came in time.
    """
    answers: SimpleQueue[Callable[[], T]] = SimpleQueue()  # cheaper than a future

    def run() -> None:
        try:
            value = call()
        except BaseException as error:
            answers.put(partial(_raise, error))
        else:
            answers.put(lambda: value)

    worker = _idle_worker()
    worker.put(run)
    try:
        answer = _first(answers, limit=limit)
    except BaseException:
        worker.put(None)
        raise
    _idle(os.getpid()).append(worker)
    return answer()


def _first(answers: "SimpleQueue[T]", *, limit: Limit) -> T:
    """Waits for it; the limit may grow meanwhile."""
    while (left_s := limit.left_s) > 0:
        with suppress(Empty):
            return answers.get(timeout=left_s)
    raise TransientError("no whole answer came in time")


def _raise(error: BaseException) -> NoReturn:
    raise error


def _idle_worker() -> _Worker:
    """One that waits for a call; a thread for every call would cost more than a short range."""
    try:
        return _idle(os.getpid()).pop()
    except IndexError:
        worker: _Worker = SimpleQueue()
        threading.Thread(target=_work, args=(worker,), name="store", daemon=True).start()
        return worker


@cache
def _idle(_pid: int) -> deque[_Worker]:
    """Of this process: a forked child has none of its parent's threads."""
    return deque()


def _work(calls: _Worker) -> None:
    while call := calls.get():
        call()
        del call  # it holds what was moved
