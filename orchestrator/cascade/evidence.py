"""What can be seen of a process that does not answer, and how it is ended; on its own node."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

PY_SPY = "py-spy"
_DUMP_S = 10.0
_SAME_START_S = 2.0  # how far a process's start may be off what its beats said
_WAIT_S = 5.0


class Eye:
    """An actor on one node that looks at processes there, from outside."""

    def look(self, pid: int, thread: int) -> dict[str, Any]:
        """A process's state and the stack of one of its threads, as JSON.

        Args:
            pid: of the process.
            thread: Python's identifier of the thread.

        Returns:
            ``state`` (psutil's word, or ``gone``); ``stack`` (frames, innermost last) or
            ``unreadable`` (why there is none).
        """
        try:
            state = psutil.Process(pid).status()
        except psutil.Error:
            return {"state": "gone", "unreadable": "there is no such process"}
        return {"state": state} | _stack(pid, thread=thread)

    def end(self, pid: int, started: float) -> bool:
        """Kills a process, stopped ones too, unless another one has its number by now."""
        with suppress(psutil.Error, subprocess.TimeoutExpired):
            process = psutil.Process(pid)
            if abs(process.create_time() - started) > _SAME_START_S:
                return False
            process.send_signal(signal.SIGKILL)
            with suppress(psutil.TimeoutExpired):
                process.wait(_WAIT_S)
            return True
        return False


def _stack(pid: int, *, thread: int) -> dict[str, Any]:
    beside = Path(sys.executable).parent / PY_SPY
    tool = str(beside) if os.access(beside, os.X_OK) else shutil.which(PY_SPY)
    if tool is None:
        return {"unreadable": f"{PY_SPY} is not installed on that node"}
    command = [tool, "dump", "--pid", str(pid), "--nonblocking", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DUMP_S, check=False)
    except subprocess.TimeoutExpired:
        return {"unreadable": f"{PY_SPY} gave no answer within {_DUMP_S:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"{PY_SPY} ended with {done.returncode}"]
        return {"unreadable": lines[0]}
    return _chosen(json.loads(done.stdout), thread=thread)


def _chosen(threads: Sequence[Mapping[str, Any]], *, thread: int) -> dict[str, Any]:
    for one in threads:
        if one["thread_id"] == thread:
            frames = [
                {"name": frame["name"], "file": frame["filename"], "line": frame["line"]}
                for frame in one["frames"]
            ]
            if frames:
                return {"stack": frames[::-1]}
    return {"unreadable": f"{PY_SPY} does not see the thread that trains"}


def stack_text(stack: Sequence[Mapping[str, Any]]) -> str:
    """One frame a line, the innermost one last."""
    return "".join(f"  {one['file']}:{one['line']} in {one['name']}\n" for one in stack)
