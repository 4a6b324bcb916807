"""Following a job to its end."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from orchestrator.errors import StoppedError, UnavailableError, error_with_code
from orchestrator.launch.jobs import Job, Jobs, LostJobError
from orchestrator.launch.signals import set_in_handler

_POLL_S = 1.0
_SAY_S = 15.0  # without an answer: then we say that we still ask
_SILENCE_S = 600.0  # without an answer: then we give up
# Exit codes of a driver that a signal ended, as Python and as a shell tell of it.
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
_TERMINATED = (-signal.SIGTERM, 128 + signal.SIGTERM)
_LOG_PER_S = 1 << 20  # bytes: Ray sends a log whole, so long ones are asked for less often


def hint(command: str, job: str, *, address: str) -> str:
    """What a user types to ``follow`` or ``stop`` a job."""
    return f"rushes job {command} {job} --address {address}"


def follow_job(jobs: Jobs, *, job: str, console: Console) -> None:
    """Prints a job's log until it ends; a cluster that does not answer is asked for ten minutes.

    Ctrl-C leaves the job alone; SIGTERM stops it, with time to save.

    Args:
        jobs: of the cluster.
        job: its id.
        console: where to print.

    Raises:
        StoppedError: after Ctrl-C, or if it was stopped.
        RushesError: with the exit code of the job's driver, unless that is 0.
        UnavailableError: if the cluster stops answering, or no longer knows the job.
    """
    with terminating() as terminated:
        follow_or_stop(jobs, job=job, console=console, terminated=terminated)


def follow_or_stop(jobs: Jobs, *, job: str, console: Console, terminated: threading.Event) -> None:
    """As ``follow_job``; the job is stopped once ``terminated`` is set, which it may be before."""
    try:
        found = _Log(jobs, job=job, console=console, terminated=terminated).to_its_end()
    except KeyboardInterrupt:
        raise StoppedError(
            f"no longer following; job {job} goes on. Look at it: "
            f"{hint('follow', job, address=jobs.address)}; stop it: "
            f"{hint('stop', job, address=jobs.address)}"
        ) from None
    _raise_unless_done(found)


def stop_job(jobs: Jobs, *, job: str, console: Console) -> Job:
    """Stops a job, with time to save, and prints what it says from now on.

    Returns:
        The job as it ended, stopped or otherwise.

    Raises:
        StoppedError: after Ctrl-C; the job is stopping.
        UnavailableError: if the cluster stops answering, or no longer knows the job.
    """
    terminated = threading.Event()
    terminated.set()
    shown = len(jobs.log(job))
    log = _Log(jobs, job=job, console=console, terminated=terminated, shown=shown)
    try:
        return log.to_its_end()
    except KeyboardInterrupt:
        raise StoppedError(
            f"job {job} saves and stops; look at it: {hint('follow', job, address=jobs.address)}"
        ) from None


class _Log:
    """How much of a job's log has been shown, and when its cluster was last heard of.

    Args:
        jobs: of the cluster.
        job: its id.
        console: where to print.
        terminated: once it is set, the job is asked to stop.
        shown: characters of the log that need not be printed.
    """

    def __init__(
        self,
        jobs: Jobs,
        *,
        job: str,
        console: Console,
        terminated: threading.Event,
        shown: int = 0,
    ) -> None:
        self._jobs = jobs
        self._job = job
        self._console = console
        self._terminated = terminated
        self._stopping = False
        self._shown = shown
        self._answered_s = time.monotonic()
        self._has_said = False

    def to_its_end(self) -> Job:
        while True:
            try:
                found = self._look()
            except LostJobError as error:
                raise LostJobError(
                    f"{error} any more: its head was started anew; the same command goes on"
                ) from None
            except UnavailableError as error:
                self._wait_for_an_answer(error)
                continue
            if found.ended:
                return found
            self._terminated.wait(_POLL_S * max(1.0, self._shown / _LOG_PER_S))

    def _look(self) -> Job:
        if self._terminated.is_set():
            self._terminated.clear()
            self._stopping = True
        # Until it is heard: a cluster may not answer, a driver may not be there yet.
        if self._stopping and self._jobs.stop(self._job):
            self._stopping = False
        found = self._jobs.get(self._job)  # before the log, which is then whole if it has ended
        log = self._jobs.log(self._job)
        self._console.out(log[self._shown :], end="", highlight=False)
        # One that is shorter is not to be found just now: it is not shown from its start again.
        self._shown = max(self._shown, len(log))
        self._answered_s = time.monotonic()
        self._has_said = False
        return found

    def _wait_for_an_answer(self, error: UnavailableError) -> None:
        silent_s = time.monotonic() - self._answered_s
        if silent_s > _SILENCE_S:
            again = hint("follow", self._job, address=self._jobs.address)
            raise UnavailableError(f"job {self._job}: {error}; look again: {again}") from None
        if silent_s > _SAY_S and not self._has_said:
            self._console.print(f"no answer, still asking: {error}", markup=False, highlight=False)
            self._has_said = True
        time.sleep(_POLL_S)


@contextmanager
def terminating() -> Iterator[threading.Event]:
    """While it lasts, SIGTERM sets the event and ends nothing."""
    terminated = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: set_in_handler(terminated))
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_unless_done(found: Job) -> None:
    if found.status == "STOPPED":
        raise StoppedError(f"job {found.id} was stopped; the same command goes on")
    if found.status == "FAILED" and found.exit_code is None:
        reason = found.message.strip().partition("\n")[0]
        raise UnavailableError(f"job {found.id} was lost: {reason}; the same command goes on")
    if found.exit_code in _KILLED:
        raise UnavailableError(
            f"job {found.id}: its driver was killed, most likely for memory; the same command "
            "goes on"
        )
    if found.exit_code in _TERMINATED:
        raise StoppedError(f"job {found.id} was stopped; the same command goes on")
    if found.exit_code:
        code = found.exit_code
        raise error_with_code(code, f"job {found.id} ended with exit code {code}")
