"""The driver's end of tracking: events go to a local file, a process of its own feeds MLflow."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Protocol

from orchestrator.tracking.spool import LOG, Event, SpoolWriter, spool_folder
from orchestrator.tracking.target import make_folder, open_command, resolve_target

_UNTRACKED = ("beat", "gang", "moment", "progress", "status")  # of the moment only
_STARTS = 4  # of the feeder, in one command
_CHECK_S = 5.0


class TrackingConfig(Protocol):
    """What a recipe says about tracking."""

    @property
    def uri(self) -> str:
        """``sqlite:///FILE`` or a server's URL."""
        ...

    @property
    def experiment(self) -> str:
        """The experiment that runs are listed under."""
        ...


class Tracker:
    """Takes events of one run, from any thread, and never waits for MLflow.

    MLflow is not imported in this process. A second process reads the spool and sends; what it
    could not send stays in ``spool_dir`` and is sent at the next start with the same folder.

    Args:
        tracking: the tracking store and the experiment.
        run_uri: the run's folder, absolute; what MLflow's run is found again by.
        attempt: number of this start of the run; with a newer one nothing more is sent.
        spool_dir: a local folder that outlives the command; several runs may share it.

    Raises:
        UserError: if the tracking URI is none, or a folder cannot be made.
    """

    def __init__(
        self, *, tracking: TrackingConfig, run_uri: str, attempt: int, spool_dir: Path
    ) -> None:
        self._target = resolve_target(tracking.uri, run_uri=run_uri)
        make_folder(self._target)
        self._folder = spool_folder(Path(spool_dir).resolve(), run_uri=run_uri)
        self._spool = SpoolWriter(self._folder)
        self._command = uuid.uuid4().hex
        self._config = {
            "uri": self._target.uri,
            "artifacts": self._target.artifacts,
            "experiment": tracking.experiment,
            "run_uri": run_uri,
            "attempt": attempt,
            "command": self._command,
            "start": self._spool.size,
        }
        self._spool.append({"kind": "attempt", "attempt": self._command})
        self._lock = threading.Lock()
        self._starts = 0
        self._next_check = 0.0
        self._feeder = self._start()

    @property
    def log_path(self) -> Path:
        """Where the feeder writes what went wrong."""
        return self._folder / LOG

    @property
    def feeder_pid(self) -> int:
        """The process that feeds MLflow."""
        return self._feeder.pid

    def event(self, event: Event) -> None:
        """Keeps one event; returns once it is in the local file.

        Raises:
            UnavailableError: if the local disk does not take it.
        """
        if event["kind"] in _UNTRACKED:
            return
        stamped = {"time_ms": time.time_ns() // 1_000_000, **event}
        if event["kind"] in ("run", "stage"):
            stamped["attempt"] = self._command
        self._spool.append(stamped)
        self._revive()

    def close(self, timeout_s: float) -> bool:
        """Waits until MLflow has everything, at most ``timeout_s``.

        Returns:
            True if it has; False if the rest waits in the spool for the next start.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            if self._feeder.poll() is not None and self._feeder.returncode != 0:
                self._feeder = self._start()
            drained = self._drain(deadline)
        self._spool.close()
        return drained

    def open_command(self) -> str:
        """What a user types to open MLflow's UI; for a server, its address."""
        return open_command(self._target)

    def _drain(self, deadline: float) -> bool:
        assert self._feeder.stdin is not None
        _tell(self._feeder, "drain")
        try:
            return self._feeder.wait(max(0.0, deadline - time.monotonic())) == 0
        except subprocess.TimeoutExpired:
            self._feeder.terminate()  # nothing is lost: its progress is on disk
            self._feeder.wait()
            return False
        finally:
            self._feeder.stdin.close()

    def _start(self) -> "subprocess.Popen[bytes]":
        """Starts the feeder in a session of its own: the terminal's Ctrl-C does not reach it."""
        self._starts += 1
        with self.log_path.open("ab") as log:
            feeder = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.tracking.feeder", str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                bufsize=0,
                start_new_session=True,
            )
        _tell(feeder, json.dumps(self._config))
        return feeder

    def _revive(self) -> None:
        """Starts a feeder that was killed again, a few times."""
        with self._lock:
            now = time.monotonic()
            if now < self._next_check:
                return
            self._next_check = now + _CHECK_S
            if self._feeder.poll() is not None and self._starts < _STARTS:
                assert self._feeder.stdin is not None
                self._feeder.stdin.close()
                self._feeder = self._start()


def _tell(feeder: "subprocess.Popen[bytes]", line: str) -> None:
    assert feeder.stdin is not None
    try:
        os.write(feeder.stdin.fileno(), line.encode() + b"\n")
    except BrokenPipeError:
        return  # it is gone: its exit code says how
