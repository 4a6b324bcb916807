"""Following a Ray job to its end."""

import signal
import threading
import time
from typing import Any

from rich.console import Console

from orchestrator.errors import RushesError, StoppedError, UnavailableError, error_with_code

_POLL_S = 1.0
_SILENCE_S = 60.0  # how long the cluster may not answer

_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def follow_job(client: Any, *, job: str, console: Console, again: str) -> None:
    """Prints a job's log until it ends.

    Ctrl-C leaves the job alone; SIGTERM stops it, with time to save.

    Args:
        client: of the cluster's jobs.
        job: its id.
        console: where to print.
        again: the command that follows it once more.

    Raises:
        StoppedError: after Ctrl-C.
        RushesError: with the exit code of the job's driver, unless that is 0.
        UnavailableError: if the cluster stops answering.
    """
    terminated = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: terminated.set())
    try:
        _follow(client, job=job, console=console, terminated=terminated)
    except KeyboardInterrupt:
        raise StoppedError(f"no longer following; job {job} goes on, look at it: {again}") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _follow(client: Any, *, job: str, console: Console, terminated: threading.Event) -> None:
    shown = 0
    answered_s = time.monotonic()
    while True:
        try:
            if terminated.is_set():
                client.stop_job(job)
                terminated.clear()  # after: a cluster that did not answer is asked again
            info = client.get_job_info(job)
            log = client.get_job_logs(job)
            answered_s = time.monotonic()
        except (ConnectionError, RuntimeError, OSError) as error:
            if time.monotonic() - answered_s > _SILENCE_S:
                raise UnavailableError(
                    f"job {job}: the cluster no longer answers: {error}"
                ) from None
            time.sleep(_POLL_S)
            continue
        console.out(log[shown:], end="", highlight=False)
        shown = len(log)
        if str(info.status) in _ENDED:
            _raise_unless_done(info, job=job)
            return
        terminated.wait(_POLL_S)


def _raise_unless_done(info: Any, *, job: str) -> None:
    status = str(info.status)
    if status == "STOPPED":
        raise StoppedError(f"job {job} was stopped; the same command goes on")
    code = info.driver_exit_code
    if status == "FAILED" and code is None:
        raise RushesError(f"job {job} failed: {info.message}")
    if status == "FAILED":
        raise error_with_code(code, f"job {job} ended with exit code {code}")
