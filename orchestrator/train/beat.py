"""A rank's heartbeat: once a second, from a thread of its own, what the rank is at."""

import os
import platform
import sys
import threading
from types import FrameType
from typing import Any

from orchestrator.errors import RushesError
from orchestrator.train.collectives import last_collective, progress
from orchestrator.train.hooks import Hooks
from orchestrator.train.ledger import Ledger, Reading
from orchestrator.train.ranks import Ranks

EVERY_S = 1.0
_NANO = 1e9
_DESCRIBE_AFTER_S = 5.0  # at one thing; what the last collective was takes milliseconds to ask for
_MOST_FRAMES = 60


class Beat:
    """Beats from its creation to ``close``; goes on while the thread that made it is stuck.

    Once a step has taken half of ``hang_after_s``, beats carry that thread's stack: who decides
    that it hangs must not have to ask for it.

    Args:
        hooks: take the events.
        stage: id of the stage.
        gang: what tells this gang from others of the stage, the same on all ranks.
        ranks: this process and its peers.
        ledger: this process's clock.
        hang_after_s: see ``Compute``.
    """

    def __init__(
        self,
        hooks: Hooks,
        *,
        stage: str,
        gang: str,
        ranks: Ranks,
        ledger: Ledger,
        hang_after_s: float,
    ) -> None:
        self.step = 0  # optimizer steps done, set by the loop
        self._hooks = hooks
        self._ledger = ledger
        self._stack_after_s = hang_after_s / 2
        self._thread_id = threading.get_ident()
        self._head = {
            "kind": "beat",
            "stage": stage,
            "gang": gang,
            "rank": ranks.rank,
            "ranks": ranks.world_size,
            "node": platform.node(),
            "pid": os.getpid(),
            "started": ledger.started_ns / _NANO,
            "thread": self._thread_id,
        }
        self._mark = (-1, 0)  # the step that is under way, and the time in steps at its start
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="beat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Beats a last time."""
        self._closed.set()
        self._thread.join()

    def _beat(self) -> None:
        last = False
        try:
            while not last:
                event = self._event()
                last = self._closed.is_set()
                self._hooks.event(event | {"last": True} if last else event)
                self._closed.wait(0.0 if last else EVERY_S)
        except RushesError:
            return  # nobody takes events any more; the stage's own next one says so

    def _event(self) -> dict[str, Any]:
        step, now = self.step, self._ledger.read()
        in_step_s = self._in_step_s(step, now)
        here_s = max(in_step_s, now.phase_ns / _NANO)
        describe = last_collective if here_s > _DESCRIBE_AFTER_S else progress
        event = self._head | {
            "time": now.time_ns / _NANO,
            "step": step,
            "phase": now.phase,
            "phase_s": now.phase_ns / _NANO,
            "seconds": now.seconds(),
            "in_step_s": in_step_s,
            "collective": describe(),
        }
        frame = sys._current_frames().get(self._thread_id)
        if in_step_s > self._stack_after_s and frame is not None:
            event["stack"] = frames(frame)
        return event

    def _in_step_s(self, step: int, now: Reading) -> float:
        """How long the step under way has taken; saves and previews between steps don't count."""
        if step != self._mark[0]:
            self._mark = (step, now.in_steps_ns)
        return (now.in_steps_ns - self._mark[1]) / _NANO


def frames(innermost: FrameType) -> list[dict[str, Any]]:
    """A thread's frames as JSON, the innermost one last."""
    found: list[dict[str, Any]] = []
    frame: FrameType | None = innermost
    while frame is not None and len(found) < _MOST_FRAMES:
        code = frame.f_code
        found.append({"name": code.co_name, "file": code.co_filename, "line": frame.f_lineno})
        frame = frame.f_back
    return found[::-1]
