"""The real feeder into a real MLflow database."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.tracking.sink import NotNowError, Point, RejectedError
from orchestrator.tracking.target import Target, resolve_target
from orchestrator.tracking.tracker import Tracker
from orchestrator.train.video import still_png, write_mp4

DRAIN_S = 120.0
SHA = "ab" * 32


@dataclass(frozen=True)
class Config:
    uri: str
    experiment: str = "rushes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracking of runs")


@pytest.fixture(scope="module")
def config(folder: Path) -> Config:
    return Config(uri=f"sqlite:///{folder}/runs/mlflow.db")


@pytest.fixture(scope="module")
def client(config: Config) -> Iterator[Any]:
    from mlflow import MlflowClient

    return MlflowClient(config.uri, registry_uri=config.uri)


@pytest.fixture
def start(folder: Path, config: Config) -> Callable[..., Tracker]:
    def build(run: str, *, tracking: Config = config, spool: str = "spool") -> Tracker:
        return Tracker(tracking=tracking, run_uri=run, attempt=1, spool_dir=folder / spool)

    return build


def metrics(step: int, **values: float) -> dict[str, Any]:
    return {"kind": "metrics", "stage": "dit", "step": step, "time_ms": 1000 + step} | {
        "values": values
    }


def history(client: Any, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((one.step, one.value) for one in client.get_metric_history(run_id, name))


def runs_of(client: Any, run: str) -> tuple[Any, dict[str, Any]]:
    experiment = client.get_experiment_by_name("rushes").experiment_id
    parents = client.search_runs([experiment], f"tags.`rushes.run` = '{run}'")
    assert len(parents) == 1
    wanted = f"tags.`mlflow.parentRunId` = '{parents[0].info.run_id}'"
    children = client.search_runs([experiment], wanted)
    by_stage = {child.data.tags["rushes.stage"]: child for child in children}
    assert len(by_stage) == len(children)
    return parents[0], by_stage


def first_attempt(folder: Path, tracker: Tracker) -> None:
    clip_THWC = np.zeros((9, 32, 32, 3), np.uint8)
    clip_THWC[:, 8:16, 8:16] = (255, 0, 0)
    write_mp4(folder / "clip.mp4", clip_THWC, fps=8)
    still_png(folder / "still.png", clip_THWC[0])
    send = tracker.event
    params = {"seed": 0, "stages": [{"id": "dit", "train": {"steps": 10}}], "long": "x" * 7000}
    send({"kind": "run", "name": "my recipe", "params": params, "tags": {"git": "abc"}})
    send({"kind": "stage", "stage": "dit", "params": {"optim": {"lr": 0.1}}, "tags": {}})
    send({"kind": "progress", "stage": "dit", "step": 1})
    for step in range(1, 7):
        send(metrics(step, loss=1 / step, **{"system/host_bytes": 5.0 * step}))
    send(metrics(7, loss=float("nan"), grad_norm=float("inf"), lr=0.5))
    send({"kind": "artifact", "stage": "dit", "uri": f"{folder}/clip.mp4", "folder": "video"})
    send({"kind": "artifact", "stage": "dit", "uri": f"{folder}/none.mp4", "folder": "video"})
    still = {"kind": "still", "stage": "dit", "key": "previews/0", "uri": f"{folder}/still.png"}
    send({**still, "step": 5})
    data = {"kind": "dataset", "stage": "dit", "name": "digits", "digest": SHA}
    send({**data, "uri": str(folder), "context": "training"})
    send({**data, "name": "far", "uri": "s3://bucket/clips", "context": "eval"})
    model = {"kind": "model", "stage": "dit", "name": "my-recipe-dit", "sha256": SHA}
    send({**model, "uri": f"{folder}/weights"})
    send({"kind": "note", "stage": "dit", "text": "a worker was restarted"})
    send({"kind": "end", "stage": "dit", "status": "FAILED"})
    send({"kind": "end", "stage": None, "status": "FAILED"})


def second_attempt(folder: Path, tracker: Tracker) -> None:
    """Goes on from step 4, with another number of steps, to the end."""
    send = tracker.event
    params = {"seed": 0, "stages": [{"id": "dit", "train": {"steps": 12}}], "new": True}
    send({"kind": "run", "name": "my recipe", "params": params, "tags": {}})
    send({"kind": "stage", "stage": "dit", "params": {"optim": {"lr": 0.1}}, "tags": {}})
    for step in range(5, 13):
        send({**metrics(step, loss=1 / step), "time_ms": 9000 + step})
    still = {"kind": "still", "stage": "dit", "key": "previews/0", "uri": f"{folder}/still.png"}
    send({**still, "step": 5})
    send({**still, "step": 10})
    model = {"kind": "model", "stage": "dit", "name": "my-recipe-dit", "sha256": SHA}
    send({**model, "uri": f"{folder}/weights"})
    send({"kind": "end", "stage": "dit", "status": "FINISHED"})
    send({"kind": "end", "stage": None, "status": "FINISHED"})


@pytest.fixture(scope="module")
def two_attempts(folder: Path, config: Config, client: Any) -> tuple[Any, Any]:
    """Parent and child after one attempt that failed and one that finished."""
    run = f"{folder}/runs/my recipe"
    tracker = Tracker(tracking=config, run_uri=run, attempt=1, spool_dir=folder / "spool")
    first_attempt(folder, tracker)
    assert tracker.close(DRAIN_S)
    parent, children = runs_of(client, run)
    assert parent.info.status == children["dit"].info.status == "FAILED"
    # The second attempt comes from another machine: it has no spool.
    tracker = Tracker(tracking=config, run_uri=run, attempt=2, spool_dir=folder / "other spool")
    second_attempt(folder, tracker)
    assert tracker.close(DRAIN_S)
    again, children_again = runs_of(client, run)
    assert again.info.run_id == parent.info.run_id
    assert children_again["dit"].info.run_id == children["dit"].info.run_id
    return again, children_again["dit"]


def test_runs_have_names_status_and_attempts(two_attempts: tuple[Any, Any]) -> None:
    parent, child = two_attempts
    assert (parent.info.run_name, child.info.run_name) == ("my recipe", "dit")
    assert parent.info.status == child.info.status == "FINISHED"
    assert parent.data.tags["git"] == "abc"
    assert parent.data.tags["rushes.attempts"] == child.data.tags["rushes.attempts"] == "2"
    assert child.data.tags["mlflow.note.content"] == "a worker was restarted"


def test_params_are_flat_cut_and_keep_their_first_value(
    folder: Path, two_attempts: tuple[Any, Any]
) -> None:
    parent, child = two_attempts
    assert parent.data.params["stages.dit.train.steps"] == "10"
    assert parent.data.params["new"] == "true"
    assert len(parent.data.params["long"]) == 6000
    assert child.data.params == {"optim.lr": "0.1"}
    rejected = next((folder / "other spool").glob("*/rejected.jsonl")).read_text()
    assert "stages.dit.train.steps=10 is now 12" in rejected


def test_a_resumed_stage_repeats_no_point(client: Any, two_attempts: tuple[Any, Any]) -> None:
    _, child = two_attempts
    steps = [*range(1, 7), *range(7, 13)]
    expected = [(step, 1 / step) for step in steps]
    assert history(client, child.info.run_id, "loss") == expected
    assert history(client, child.info.run_id, "lr") == [(7, 0.5)]
    first = client.get_metric_history(child.info.run_id, "loss")[0]
    assert first.timestamp == 1001


def test_values_that_are_not_finite_are_counted(client: Any, two_attempts: tuple[Any, Any]) -> None:
    _, child = two_attempts
    assert history(client, child.info.run_id, "nonfinite") == [(7, 2.0)]
    assert "grad_norm" not in child.data.metrics


def test_system_metrics_keep_their_prefix(client: Any, two_attempts: tuple[Any, Any]) -> None:
    _, child = two_attempts
    wanted = [(step, 5.0 * step) for step in range(1, 7)]
    assert history(client, child.info.run_id, "system/host_bytes") == wanted


def test_the_video_is_stored_byte_for_byte(
    folder: Path, client: Any, two_attempts: tuple[Any, Any]
) -> None:
    _, child = two_attempts
    stored = client.download_artifacts(child.info.run_id, "video/clip.mp4")
    assert Path(stored).read_bytes() == (folder / "clip.mp4").read_bytes()
    beside = folder / "runs" / "mlartifacts" / child.info.run_id
    assert (beside / "artifacts" / "video" / "clip.mp4").is_file()


def test_an_artifact_that_is_not_there_holds_up_nothing(
    folder: Path, two_attempts: tuple[Any, Any]
) -> None:
    rejected = next((folder / "spool").glob("*/rejected.jsonl")).read_text().splitlines()
    assert len(rejected) == 1
    assert "none.mp4" in json.loads(rejected[0])["reason"]


def test_stills_have_a_step_each_and_no_double(client: Any, two_attempts: tuple[Any, Any]) -> None:
    _, child = two_attempts
    names = [file.path for file in client.list_artifacts(child.info.run_id, "images")]
    steps = sorted(int(name.split("+")[2]) for name in names if name.endswith(".png"))
    assert steps == [5, 10]
    assert all(name.startswith("images/previews~0+step+") for name in names)
    assert child.data.tags["mlflow.loggedImages"] == "True"


def test_data_sets_are_inputs_with_their_whole_digest(two_attempts: tuple[Any, Any]) -> None:
    _, child = two_attempts
    inputs = {one.dataset.name: one for one in child.inputs.dataset_inputs}
    assert sorted(inputs) == ["digits", "far"]
    assert json.loads(inputs["far"].dataset.source) == {"uri": "s3://bucket/clips"}
    assert inputs["digits"].dataset.digest == SHA[:36]
    tags = {tag.key: tag.value for tag in inputs["digits"].tags}
    assert (tags["rushes.digest"], tags["mlflow.data.context"]) == (SHA, "training")


def test_the_same_weights_are_registered_once(
    folder: Path, client: Any, two_attempts: tuple[Any, Any]
) -> None:
    _, child = two_attempts
    versions = client.search_model_versions("name = 'my-recipe-dit'")
    assert [version.source for version in versions] == [f"{folder}/weights"]
    assert versions[0].run_id == child.info.run_id
    assert versions[0].tags["sha256"] == SHA
    newest = client.get_model_version_by_alias("my-recipe-dit", "newest")
    assert newest.version == versions[0].version


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DRAIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def offset_of(spool: Path) -> int:
    states = list(spool.glob("*/state-*.json"))
    return json.loads(states[0].read_text())["offset"] if states else 0


def test_a_killed_feeder_loses_and_doubles_nothing(
    folder: Path, client: Any, two_attempts: tuple[Any, Any], start: Callable[..., Tracker]
) -> None:
    run, spool = f"{folder}/runs/killed", folder / "killed"
    tracker = start(run, spool="killed")
    tracker.event({"kind": "stage", "stage": "dit", "params": {}, "tags": {}})
    for step in range(4000):
        tracker.event(metrics(step, loss=step / 3, lr=0.5, grad_norm=1.0, clips=8.0))
    events = next(spool.glob("*/events.jsonl"))
    wait_until(lambda: offset_of(spool) > 10_000)
    os.kill(tracker.feeder_pid, signal.SIGKILL)
    assert not tracker.close(0.0)
    assert offset_of(spool) < events.stat().st_size
    with events.open("ab") as file:
        file.write(b'{"kind": "metrics", "stage": "di')  # a driver that was killed too
    tracker = start(run, spool="killed")
    tracker.event(metrics(4000, loss=4000 / 3))
    assert tracker.close(DRAIN_S)
    _, children = runs_of(client, run)
    run_id = children["dit"].info.run_id
    assert history(client, run_id, "loss") == [(step, step / 3) for step in range(4001)]
    assert len(client.get_metric_history(run_id, "clips")) == 4000
    assert "cut off" in next(spool.glob("*/rejected.jsonl")).read_text()


def test_a_driver_that_died_leaves_a_killed_run(
    folder: Path, client: Any, two_attempts: tuple[Any, Any], start: Callable[..., Tracker]
) -> None:
    run = f"{folder}/runs/orphan"
    tracker = start(run, spool="orphan")
    tracker.event({"kind": "run", "name": "orphan", "params": {}, "tags": {}})
    tracker.event({"kind": "overview", "stage": None, "text": "running", "if_lost": "stopped"})
    tracker.event(metrics(1, loss=2.0))
    pipe = tracker._feeder.stdin
    assert pipe is not None
    pipe.close()  # what the system does when the driver dies
    assert tracker._feeder.wait(DRAIN_S) == 0
    parent, children = runs_of(client, run)
    assert parent.info.status == children["dit"].info.status == "KILLED"
    assert parent.data.tags["mlflow.note.content"] == "stopped"
    assert children["dit"].data.metrics == {"loss": 2.0}
    assert not list((folder / "orphan").glob("*/rejected.jsonl"))


def test_a_feeder_that_was_killed_is_started_again(
    folder: Path,
    client: Any,
    two_attempts: tuple[Any, Any],
    start: Callable[..., Tracker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.tracking.tracker._CHECK_S", 0.0)
    run = f"{folder}/runs/revived"
    tracker = start(run)
    first = tracker.feeder_pid
    assert os.getpgid(first) != os.getpgid(0)  # Ctrl-C in the terminal does not reach it
    tracker.event(metrics(1, loss=1.0))
    os.kill(first, signal.SIGKILL)

    def is_revived() -> bool:
        tracker.event({"kind": "note", "stage": "dit", "text": "still here"})
        return tracker.feeder_pid != first

    wait_until(is_revived)
    tracker.event(metrics(2, loss=2.0))
    assert tracker.close(DRAIN_S)
    _, children = runs_of(client, run)
    assert history(client, children["dit"].info.run_id, "loss") == [(1, 1.0), (2, 2.0)]
    assert children["dit"].data.tags["mlflow.note.content"] == "still here"


@pytest.fixture
def sink_of(folder: Path, config: Config, two_attempts: tuple[Any, Any]) -> Callable[..., Any]:
    """A sink in this process, into the database that the feeder made."""
    from orchestrator.tracking.mlflow_sink import MlflowSink

    def build(run: str, *, experiment: str = "rushes") -> Any:
        target = resolve_target(config.uri, run_uri=run)
        return MlflowSink(target, experiment=experiment, run_uri=run)

    return build


def test_a_deleted_experiment_is_restored(client: Any, sink_of: Callable[..., Any]) -> None:
    experiment = client.create_experiment("deleted")
    client.delete_experiment(experiment)
    sink = sink_of("/runs/a", experiment="deleted")
    sink.log_points("dit", [Point("loss", 1.0, 5, 1)])
    assert sink.find_run() is not None
    assert client.get_experiment(experiment).lifecycle_stage == "active"


def test_a_deleted_run_is_made_anew(client: Any, sink_of: Callable[..., Any]) -> None:
    sink = sink_of("/runs/b")
    sink.log_points("", [Point("loss", 1.0, 5, 1)])
    first = sink.find_run()
    client.delete_run(first)
    again = sink_of("/runs/b")
    assert again.find_run() is None
    again.log_points("", [Point("loss", 1.0, 5, 1)])
    assert again.find_run() not in (None, first)


def test_a_run_at_a_place_with_a_quote_is_found_again(sink_of: Callable[..., Any]) -> None:
    sink = sink_of("/runs/it's")
    sink.log_points("dit", [Point("loss", 1.0, 5, 7)])
    again = sink_of("/runs/it's")
    assert again.find_run() == sink.find_run()
    assert again.stored_marks("dit") == {"loss": 7}


def test_notes_are_lines_of_the_description_without_repeats(
    client: Any, sink_of: Callable[..., Any]
) -> None:
    sink = sink_of("/runs/notes")
    for text in ("one", "two", "one", "x" * 7998):
        sink.apply({"kind": "note", "stage": None, "text": text})
        seen = client.get_run(sink.find_run()).data.tags["mlflow.note.content"]
        assert len(seen) <= 8000
        if text == "two":
            assert seen == "one  \ntwo"
    assert seen == "x" * 7998


def test_a_changed_stage_shows_its_metrics_in_a_run_of_its_own(
    client: Any, start: Callable[..., Tracker], folder: Path
) -> None:
    run = f"{folder}/runs/changed"
    for inputs, loss in (("a" * 64, 9.0), ("b" * 64, 1.0), ("b" * 64, 0.5)):
        tracker = start(run)
        tracker.event({"kind": "run", "name": "changed", "params": {}, "tags": {}})
        params = {"lr": 1.0 if loss == 9.0 else 0.1}
        about = {"params": params, "tags": {"inputs": inputs}}
        tracker.event({"kind": "stage", "stage": "dit", **about})
        tracker.event(metrics(3 if loss == 9.0 else 1 if loss == 1.0 else 2, loss=loss))
        assert tracker.close(DRAIN_S)
    _, children = runs_of(client, run)
    assert set(children) == {"dit", "dit (aaaaaaaa)"}
    assert history(client, children["dit"].info.run_id, "loss") == [(1, 1.0), (2, 0.5)]
    assert children["dit"].data.params["lr"] == "0.1"
    assert history(client, children["dit (aaaaaaaa)"].info.run_id, "loss") == [(3, 9.0)]


def test_an_overview_takes_the_place_of_the_one_before(
    client: Any, sink_of: Callable[..., Any]
) -> None:
    sink = sink_of("/runs/overview")
    for text in ("| stage |", "| stage | state |"):
        sink.apply({"kind": "overview", "stage": None, "text": text})
    seen = client.get_run(sink.find_run()).data.tags["mlflow.note.content"]
    assert seen == "| stage | state |"


def test_other_weights_are_a_new_version_and_the_newest(
    client: Any, sink_of: Callable[..., Any]
) -> None:
    sink = sink_of("/runs/versions")
    event = {"kind": "model", "stage": "dit", "name": "two/weights", "uri": "s3://bucket/w"}
    for sha256 in ("aa", "bb", "aa"):
        sink.apply({**event, "sha256": sha256})
    versions = client.search_model_versions("name = 'two_weights'")
    assert sorted(one.tags["sha256"] for one in versions) == ["aa", "bb"]
    assert {one.source for one in versions} == {"s3://bucket/w"}
    newest = client.get_model_version_by_alias("two_weights", "newest")
    assert newest.tags["sha256"] == "aa"


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "artifact", "stage": "dit", "uri": "/none/x.mp4", "folder": "video"},
        {"kind": "still", "stage": "dit"},
        {"kind": "end", "stage": "dit", "status": "HAPPY", "time_ms": 1},
        {"kind": "dataset", "stage": "dit", "name": "d", "uri": "odd://x"},
        {"kind": "surprise"},
    ],
)
def test_events_that_can_never_be_stored_are_refused(
    sink_of: Callable[..., Any], event: dict[str, Any]
) -> None:
    with pytest.raises(RejectedError):
        sink_of("/runs/refused").apply(event)


class NotMlflow(BaseHTTPRequestHandler):
    """What a proxy says while the server behind it is away."""

    def do_GET(self) -> None:
        self.send_error(404)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def test_an_error_page_that_is_not_mlflows_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.tracking.mlflow_sink import MlflowSink

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), NotMlflow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        sink = MlflowSink(Target(uri=uri, artifacts=None), experiment="x", run_uri="/runs/a")
        with pytest.raises(NotNowError):
            sink.log_points("dit", [Point("loss", 1.0, 5, 7)])
        assert not sink.answers()
        server.shutdown()
    with pytest.raises(NotNowError):  # now nothing listens there
        sink.log_points("dit", [Point("loss", 1.0, 5, 7)])


def test_the_driver_never_imports_mlflow() -> None:
    code = "import sys, orchestrator.tracking.tracker; print('mlflow' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert output.stdout.strip() == b"False"
