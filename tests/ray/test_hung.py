"""A rank that is stopped, and one that is stuck in its own code: both are named, with evidence,
and the gang goes on from its last checkpoint to the weights of an undisturbed run."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from orchestrator.data.sources import ensure_sources
from orchestrator.recipe.load import load_recipe
from orchestrator.train.job import StageJob
from tests.ray.conftest import ROOT, Head
from tests.ray.test_interrupted import LIMIT_S, ended, start
from tests.tiny import tiny_tree

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

STEPS, SAVE_EVERY = 200, 10
SAVED = 3 * SAVE_EVERY  # the next save waits for the last one: at least two are committed then
STAGE = "autoencoder"


@dataclass(frozen=True)
class Ended:
    """A command in which one rank was stopped.

    Attributes:
        code: how it ended.
        out: all that it said.
        pid: the process that was stopped.
        folder: of the recipe.
    """

    code: int
    out: str
    pid: int
    folder: Path

    def note(self, part: str) -> str:
        (line,) = [line for line in self.out.splitlines() if part in line]
        return line


def write_recipe(folder: Path) -> Path:
    tree = tiny_tree(folder, workers=2)
    one = tree["stages"][0] | {"save": {"every_steps": SAVE_EVERY}}
    one["train"] |= {"steps": STEPS, "log_every": 10}
    tree["stages"] = [one]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """One of two ranks gets a SIGSTOP once some steps are saved."""
    folder = tmp_path_factory.mktemp("stopped")
    process = start(write_recipe(folder))
    assert process.stdout is not None
    said: list[str] = []
    pid = 0
    for line in process.stdout:
        said.append(line)
        progress = re.match(rf"{STAGE}  running  (\d+)/", line)
        if progress and int(progress[1]) >= SAVED:
            pid = ranks_of(process)[0]
            psutil.Process(pid).send_signal(signal.SIGSTOP)
            break
    code, out, err = ended(process)
    return Ended(code=code, out="".join(said) + out + err, pid=pid, folder=folder)


def ranks_of(process: "subprocess.Popen[str]") -> list[int]:
    found = [
        child.pid
        for child in psutil.Process(process.pid).children(recursive=True)
        if "".join(child.cmdline()).startswith("ray::RayTrainWorker")
    ]
    assert len(found) == 2
    return sorted(found)


def weights(run: Path) -> dict[str, Any]:
    return load_file(run / "stages" / STAGE / "weights" / "ema.safetensors")


def test_a_stopped_rank_is_named_with_its_state(stopped: Ended) -> None:
    assert stopped.code == 0, stopped.out
    note = stopped.note("is silent")
    assert re.match(rf"{STAGE}: rank [01] of 2 on \S+ \(pid {stopped.pid}\) is silent: ", note)
    assert re.search(r"no sign of life for \d+ s; the others wait in \w+ #\d+ \[", note)
    state = re.search(r"process stopped; step (\d+), .*; last collective #\d+", note)
    assert state is not None, note
    assert 0 < int(state[1]) < STEPS  # by its last beat: a second before it was stopped, at most
    assert note.endswith("the gang starts again from the last checkpoint")


def test_its_stack_is_in_the_run_and_in_mlflow(stopped: Ended) -> None:
    (report,) = (stopped.folder / "runs/tiny/stages" / STAGE / "hangs").iterdir()
    assert re.fullmatch(r"0001-[0-9a-f]{8}-rank[01]\.txt", report.name)
    text = report.read_text()
    assert "Seen from outside" in text, text  # as root, or with ptrace_scope 0
    assert "loop.py" in text
    assert f"stack: stages/{STAGE}/hangs/{report.name}" in stopped.note("is silent")
    with sqlite3.connect(stopped.folder / "mlflow.db") as db:
        notes = db.execute("select value from tags where key = 'mlflow.note.content'").fetchall()
    assert [one for (one,) in notes if "is silent" in one]
    assert list(stopped.folder.glob(f"**/artifacts/hangs/{report.name}"))


def test_the_gang_goes_on_to_the_weights_of_an_undisturbed_run(stopped: Ended) -> None:
    went_on = re.search(r"goes on from step (\d+)", stopped.note("goes on from step"))
    assert went_on is not None
    assert int(went_on[1]) >= SAVED - SAVE_EVERY
    undisturbed = stopped.folder / "undisturbed"
    command = [sys.executable, "-m", "orchestrator", "train", str(stopped.folder / "recipe.yaml")]
    done = subprocess.run(
        [*command, "--local", "--run", str(undisturbed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    wanted = weights(undisturbed)
    for name, tensor in weights(stopped.folder / "runs" / "tiny").items():
        assert tensor.equal(wanted[name]), name


@pytest.fixture(scope="module")
def cluster(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(head.env | {"RAY_ADDRESS": head.gcs})
    from orchestrator.launch.ray_session import open_session

    recipe = load_recipe(ROOT / "jobs" / "sora_debug.yaml")
    session = open_session(recipe, folder=tmp_path_factory.mktemp("ray"))
    yield
    session.close()
    os.environ.clear()
    os.environ.update(before)


def test_a_rank_that_is_stuck_in_its_own_code_is_named_by_its_function(
    cluster: None, recipe_file: Any, tmp_path: Path
) -> None:
    from orchestrator.cascade.ray_executor import RayExecutor

    compute = f"stages.{STAGE}.compute"
    recipe = load_recipe(
        recipe_file(steps=8),
        overrides=[
            f"{compute}.workers=2",
            f"{compute}.hang_after_s=10",
            f"stages.{STAGE}.save.every_steps=2",
        ],
    )
    ensure_sources(recipe, on_clips=lambda *_: None)
    run = tmp_path / "run"
    run.mkdir()
    events: list[dict[str, Any]] = []
    result = RayExecutor(
        scratch=tmp_path / "scratch",
        logs=tmp_path / "logs",
        private=False,
        worker="tests.ray.workers:stuck_once",
    ).run(
        StageJob(recipe=recipe, stage=STAGE, run=str(run), attempt=1),
        on_event=events.append,
        stop=threading.Event(),
    )
    assert (result.status, result.step) == ("done", 8)
    notes = [event["text"] for event in events if event["kind"] == "note"]
    (note,) = [text for text in notes if " hangs: " in text]
    assert note.startswith("rank 1 of 2 on ")
    assert re.search(r"the others wait in \w+ #\d+ ", note)
    assert "step 5, compute" in note
    (artifact,) = [event for event in events if event["kind"] == "artifact"]
    (report,) = (run / "stages" / STAGE / "hangs").iterdir()
    assert artifact["uri"].endswith(report.name)
    assert "in waits_for_nobody\n" in report.read_text()
    assert len({event["gang"] for event in events if event["kind"] == "beat"}) == 2
    assert any(re.search("goes on from step [24], loaded in ", text) for text in notes)
    assert not any("stack" in event for event in events)
