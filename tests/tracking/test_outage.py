"""A real tracking server that is not there, comes, goes and comes back."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.tracking.spool import EVENTS
from orchestrator.tracking.tracker import Tracker
from orchestrator.train.video import still_png, write_mp4

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
WAIT_S = 120.0


@dataclass(frozen=True)
class Config:
    uri: str
    experiment: str = "rushes"


class Server:
    """``mlflow server`` on loopback, without its job runner."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = os.environ | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        command += ["--artifacts-destination", str(self._folder / "server artifacts")]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        wait_until(self._is_up)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "server.log").read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def metrics(step: int) -> dict[str, Any]:
    return {"kind": "metrics", "stage": "dit", "step": step, "values": {"loss": step / 4}}


def test_an_outage_is_not_felt_and_loses_nothing(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    server = Server(tmp_path)
    run, spool = str(tmp_path / "runs" / "one"), tmp_path / "spool"
    config = Config(uri=server.url)
    clip_THWC = np.full((5, 32, 32, 3), 200, np.uint8)
    write_mp4(tmp_path / "clip.mp4", clip_THWC, fps=8)
    still_png(tmp_path / "still.png", clip_THWC[0])
    try:
        # No server: every event is on disk when the call returns, none is sent.
        tracker = Tracker(tracking=config, run_uri=run, attempt=1, spool_dir=spool)
        tracker.event({"kind": "run", "name": "one", "params": {"seed": 1}, "tags": {}})
        for step in range(100):
            tracker.event(metrics(step))
        events = next(spool.glob(f"*/{EVENTS}"))
        assert len(events.read_text().splitlines()) == 102
        wait_until(lambda: "not sent yet" in tracker.log_path.read_text())
        assert not tracker.close(0.0)

        # The same command again, and the server is there.
        server.start()
        client = MlflowClient(server.url, registry_uri=server.url)
        tracker = Tracker(tracking=config, run_uri=run, attempt=1, spool_dir=spool)
        tracker.event({"kind": "run", "name": "one", "params": {"seed": 1}, "tags": {}})
        for step in range(100, 200):
            tracker.event(metrics(step))
        wait_until(lambda: len(losses(client)) == 200)

        # It goes away in the middle, and comes back.
        server.kill()
        lines = tracker.log_path.read_text().count("not sent yet")
        for step in range(200, 300):
            tracker.event(metrics(step))
        artifact = {"kind": "artifact", "stage": "dit", "folder": "video"}
        tracker.event({**artifact, "uri": (tmp_path / "clip.mp4").as_uri()})
        still = {"kind": "still", "stage": "dit", "key": "preview", "step": 299}
        tracker.event({**still, "uri": str(tmp_path / "still.png")})
        model = {"kind": "model", "stage": "dit", "name": "one-dit", "sha256": "cd" * 32}
        tracker.event({**model, "uri": str(tmp_path / "weights")})
        tracker.event({"kind": "end", "stage": None, "status": "FINISHED"})
        wait_until(lambda: tracker.log_path.read_text().count("not sent yet") > lines)
        server.start()
        assert tracker.close(WAIT_S)

        assert losses(client) == [(step, step / 4) for step in range(300)]
        child = child_of(client)
        assert child.info.status == "FINISHED"
        stored = client.download_artifacts(child.info.run_id, "video/clip.mp4")
        assert Path(stored).read_bytes() == (tmp_path / "clip.mp4").read_bytes()
        assert len(client.list_artifacts(child.info.run_id, "images")) == 2
        version = client.get_model_version_by_alias("one-dit", "newest")
        assert version.tags["rushes.uri"] == str(tmp_path / "weights")
        assert not list(spool.glob("*/rejected.jsonl"))
    finally:
        server.kill()


def child_of(client: Any) -> Any:
    experiment = client.get_experiment_by_name("rushes")
    if experiment is None:
        return None
    children = client.search_runs([experiment.experiment_id], "tags.`rushes.stage` = 'dit'")
    assert len(children) <= 1
    return children[0] if children else None


def losses(client: Any) -> list[tuple[int, float]]:
    child = child_of(client)
    if child is None:
        return []
    return sorted((x.step, x.value) for x in client.get_metric_history(child.info.run_id, "loss"))
