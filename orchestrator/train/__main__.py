"""One rank of one stage as a plain process: ``python -m orchestrator.train JOB.json``.

Under torchrun too: ``torchrun --nproc-per-node 8 -m orchestrator.train JOB.json``. Events
go to ``--events FD`` as JSON lines or are dropped; the last line of every rank is a ``result``
or an ``error``. SIGTERM and SIGINT save and stop, and with ``--until-eof`` so does the end of
standard input: a rank whose parent was killed must not train on.
"""

import argparse
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from orchestrator.errors import RushesError
from orchestrator.redact import redact
from orchestrator.train.hooks import NeverPaused


class PipeHooks(NeverPaused):
    """Hooks that write JSON lines to a file descriptor."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def event(self, event: dict[str, Any]) -> None:
        """Writes one line, from any thread."""
        if self._fd is None:
            return
        line = memoryview(json.dumps(event).encode() + b"\n")
        try:
            with self._lock:
                while line:
                    line = line[os.write(self._fd, line) :]
        except BrokenPipeError:  # nobody listens any more
            self._stop.set()

    def should_stop(self) -> bool:
        """True after a signal."""
        return self._stop.is_set()

    def on_signal(self, _number: int, _frame: FrameType | None) -> None:
        """Asks the loop to save and stop."""
        self._stop.set()

    def stop_at_eof(self, fd: int) -> None:
        """Asks the same when the other end of a pipe is closed."""

        def wait() -> None:
            while os.read(fd, 1024):
                pass
            self._stop.set()

        threading.Thread(target=wait, name="eof", daemon=True).start()


def main() -> int:
    """Runs the rank; the exit code is errors.py's."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.train")
    parser.add_argument("job", type=Path)
    parser.add_argument("--events", type=int, default=None)
    parser.add_argument("--until-eof", action="store_true")
    args = parser.parse_args()
    hooks = PipeHooks(args.events)
    if args.until_eof:
        hooks.stop_at_eof(sys.stdin.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hooks.on_signal)
    # Late: torch takes seconds to import, in which a signal would end the process unheard.
    from orchestrator.train.job import StageJob
    from orchestrator.train.worker import run

    job = StageJob.model_validate_json(args.job.read_text())
    try:
        result = run(job, hooks=hooks)
    except RushesError as error:
        hooks.event({"kind": "error", "exit_code": error.exit_code, "text": str(error)})
        print(error, file=sys.stderr)
        return error.exit_code
    except Exception:  # the edge of this process, whose output is kept as a log
        print(redact(traceback.format_exc()), file=sys.stderr)
        return RushesError.exit_code
    hooks.event({"kind": "result", **result.model_dump(mode="json")})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
