"""The process that feeds MLflow: ``python -m orchestrator.tracking.feeder SPOOL_FOLDER``.

Its first line on standard input is a JSON object of ``Config``; the line ``drain`` asks it to
send the rest and end. Where standard input ends without it, the driver died.
"""

import fcntl
import json
import logging
import os
import select
import sys
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orchestrator.redact import redact
from orchestrator.tracking import fetch
from orchestrator.tracking.pump import Pump
from orchestrator.tracking.sink import NotNowError, RejectedError, Sink
from orchestrator.tracking.spool import LOCK, StateFile
from orchestrator.tracking.target import Target

_DRAINED, _GAVE_UP = 0, 75
_NICE = 5
_POLL_S = 0.5
_BACKOFF_S = (1.0, 30.0)  # first and longest pause after a failure
_DRAIN_BACKOFF_S = 1.0  # longest pause while somebody waits
_ORPHAN_S = 60.0  # without success, after the driver died

_ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """What the driver says."""

    uri: str
    artifacts: str | None
    experiment: str
    run_uri: str
    attempt: int
    command: str
    start: int


class Driver:
    """The process at the other end of standard input."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._parent = os.getppid()
        self._received = b""
        self._closed = False
        self.said_drain = False

    def read_config(self) -> Config:
        """The first line; waits for it."""
        while b"\n" not in self._received and not self._closed:
            self._receive()
        first, _, self._received = self._received.partition(b"\n")
        return Config(**json.loads(first))

    @property
    def is_gone(self) -> bool:
        """True if it died without a word."""
        return not self.said_drain and (self._closed or os.getppid() != self._parent)

    @property
    def is_done(self) -> bool:
        """True if no more events come from it."""
        return self.said_drain or self.is_gone

    def wait(self, seconds: float) -> None:
        """Returns early when the driver says something."""
        if self._closed:
            time.sleep(seconds)
        elif select.select([self._fd], [], [], seconds)[0]:
            self._receive()

    def _receive(self) -> None:
        data = os.read(self._fd, 65536)
        self._closed = not data
        self._received += data
        self.said_drain = self.said_drain or b"drain\n" in self._received


def feed(driver: Driver, *, pump: Pump, sink: Sink) -> int:
    """Sends until the driver is done and the spool is empty; the exit code."""
    pause, longest = _BACKOFF_S
    last_success = time.monotonic()
    while True:
        driver.wait(0.0)  # what was said before this pass is what it must reach
        done = driver.is_done
        try:
            moved = pump.advance()
            pause, last_success = _BACKOFF_S[0], time.monotonic()
        except NotNowError as error:
            log.warning("not sent yet: %s", error)
            if driver.is_gone and time.monotonic() - last_success > _ORPHAN_S:
                return _GAVE_UP
            driver.wait(min(pause, _DRAIN_BACKOFF_S) if done else pause)
            pause = min(2 * pause, longest)
            continue
        if not moved:
            if pump.superseded:
                return _DRAINED
            if done:
                if driver.is_gone:
                    _abandon(sink)
                return _DRAINED
            driver.wait(_POLL_S)


def _abandon(sink: Sink) -> None:
    try:
        sink.abandon()
    except (NotNowError, RejectedError) as error:
        log.warning("could not mark the run as killed: %s", error)


def _wait_for_lock(folder: Path, *, driver: Driver) -> int | None:
    """One feeder at a time per spool; None where the driver died before it was our turn."""
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if driver.is_gone:
                return None
            # A driver that said drain waits for us, and ends us when it has waited enough.
            if driver.said_drain:
                time.sleep(_POLL_S)
            driver.wait(_POLL_S)


def main(folder: Path) -> int:
    """Runs one feeder; the exit code says whether the spool is empty."""
    os.nice(_NICE)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("orchestrator").setLevel(logging.INFO)
    driver = Driver(sys.stdin.fileno())
    config = driver.read_config()
    if _wait_for_lock(folder, driver=driver) is None:
        return _GAVE_UP

    # Late, because its import takes seconds and reads the environment.
    from orchestrator.tracking.mlflow_sink import MlflowSink

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    target = Target(uri=config.uri, artifacts=config.artifacts)
    sink = MlflowSink(target, experiment=config.experiment, run_uri=config.run_uri)
    state = StateFile(folder, target=f"{redact(config.uri)} {config.experiment}")
    pump = Pump(
        folder,
        sink=sink,
        state=state,
        attempt=config.attempt,
        newest_attempt=partial(fetch.newest_attempt, config.run_uri),
        command=config.command,
        start=config.start,
    )
    return feed(driver, pump=pump, sink=sink)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
