"""Batches planned and read before they are asked for, by threads, and handed out in order."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from orchestrator.data.batch import Plan, StepBatch

_TELL_EVERY = 16  # steps
_STOP_S = 5.0  # a read may wait for its store far longer


class Ahead:
    """Threads that read a step each, and plan it: who takes steps only waits for them.

    They die with the process: a read that hangs does not keep it.

    Args:
        plan: the plan of a step; called by one thread at a time, in the order of steps.
        read: its clips; called by several at once.
        first: step that is taken first.
        workers: threads.
        steps: that are read, or are being read, and not taken.
        planned: steps beyond those that are planned already.
        soon: told of the plans beyond, every now and then, by the threads.
    """

    def __init__(
        self,
        *,
        plan: Callable[[int], Plan],
        read: Callable[[Plan], StepBatch],
        first: int,
        workers: int,
        steps: int,
        planned: int,
        soon: Callable[[Sequence[Plan]], None],
    ) -> None:
        self._plan = plan
        self._read = read
        self._soon = soon
        self._step = first  # the next one to be planned
        self._planned = planned
        self._plans: deque[Plan] = deque()
        self._begun = 0
        self._turn = threading.Lock()  # of the thread that plans
        self._tasks: queue.SimpleQueue[Future[StepBatch] | None] = queue.SimpleQueue()
        self._coming: deque[Future[StepBatch]] = deque()
        self._has_failed = False
        self._threads = [
            threading.Thread(target=self._run, name="stream", daemon=True) for _ in range(workers)
        ]
        for _ in range(steps):
            self._begin()
        for thread in self._threads:
            thread.start()

    def take(self) -> StepBatch:
        """The next step; waits until it is read.

        Raises what reading it raised, at every later call too.
        """
        batch = self._coming[0].result()
        self._coming.popleft()
        self._begin()
        return batch

    def stop(self) -> None:
        """Reads no more, and waits a little for what is being read."""
        for future in self._coming:
            future.cancel()
        for _ in self._threads:
            self._tasks.put(None)
        end_s = time.monotonic() + _STOP_S
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))

    def _begin(self) -> None:
        future: Future[StepBatch] = Future()
        self._coming.append(future)
        self._tasks.put(future)

    def _run(self) -> None:
        """Steps come in order: behind one that cannot be read, none will be taken any more."""
        future: Future[StepBatch] | None = None
        try:
            while True:
                with self._turn:
                    if self._has_failed or (future := self._tasks.get()) is None:
                        return
                    plan = self._next_plan()
                if future.set_running_or_notify_cancel():
                    future.set_result(self._read(plan))
        except BaseException as error:  # handed to the consumer, who raises it
            self._has_failed = True
            if future is not None:
                future.set_exception(error)

    def _next_plan(self) -> Plan:
        while len(self._plans) <= self._planned:
            self._plans.append(self._plan(self._step))
            self._step += 1
        if self._begun % _TELL_EVERY == 0:
            self._soon(list(self._plans))
        self._begun += 1
        return self._plans.popleft()
