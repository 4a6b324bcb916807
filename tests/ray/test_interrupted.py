"""Stages on a Ray of their own: Ctrl-C in the terminal of two of them, and a head that dies."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from tests.ray.conftest import ROOT
from tests.tiny import tiny_tree

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

LIMIT_S = 300
STAGES = ("first", "second")
STEPS = 1000
MIDDLE = STEPS // 10  # the terminal shows every tenth part
STOPPED = "rushes: stopped and saved; the same command goes on from here"


@dataclass(frozen=True)
class Stopped:
    """What a command that was interrupted left.

    Attributes:
        code: how it ended.
        out: what it said.
        err: what it said of its end.
        shown: the last step that the terminal showed before Ctrl-C, by stage.
        saved: the steps with a COMMIT at its end, by stage.
        logged: the steps in metrics.jsonl at its end, by stage.
    """

    code: int
    out: str
    err: str
    shown: dict[str, int]
    saved: dict[str, list[int]]
    logged: dict[str, list[int]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each stage is long enough to be in the middle when the other is; a COMMIT is the stop's."""
    folder = tmp_path_factory.mktemp("interrupted")
    return write_recipe(folder, stages=STAGES, steps=STEPS, save_every=STEPS)


def write_recipe(folder: Path, *, stages: tuple[str, ...], steps: int, save_every: int) -> Path:
    tree = tiny_tree(folder, workers=1)
    one = tree["stages"][0] | {"save": {"every_steps": save_every}}
    one["train"] |= {"steps": steps, "objective": {"kind": "autoencoder", "l2": 1.0}}
    tree["stages"] = [one | {"id": stage} for stage in stages]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def stopped(recipe: Path) -> Stopped:
    """Started, and interrupted once the terminal has shown both stages in the middle."""
    process = start(recipe)
    assert process.stdout is not None
    said: list[str] = []
    shown: dict[str, int] = {}
    for line in process.stdout:
        said.append(line)
        progress = re.match(r"(\w+)  running  (\d+)/", line)
        if progress:
            shown[progress[1]] = int(progress[2])
        if len(shown) == len(STAGES) and min(shown.values()) >= MIDDLE:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal: to every process of the group
            break
    code, out, err = ended(process)
    assert set(shown) == set(STAGES), "".join(said) + out + err
    return Stopped(
        code=code,
        out="".join(said) + out,
        err=err,
        shown=shown,
        saved={stage: saved(recipe, stage) for stage in STAGES},
        logged={stage: logged(recipe, stage) for stage in STAGES},
    )


def start(recipe: Path) -> "subprocess.Popen[str]":
    """The command, first of its process group, without the address of a Ray."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(recipe.parent / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "train", str(recipe)],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def folder_of(recipe: Path, stage: str) -> Path:
    return recipe.parent / "runs" / "tiny" / "stages" / stage


def saved(recipe: Path, stage: str) -> list[int]:
    commits = folder_of(recipe, stage).glob("checkpoints/*/COMMIT")
    return sorted(int(one.parent.name.removeprefix("step-")) for one in commits)


def logged(recipe: Path, stage: str) -> list[int]:
    lines = (folder_of(recipe, stage) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_ctrl_c_ends_the_command_as_stopped(stopped: Stopped) -> None:
    assert stopped.code == 143, stopped.out + stopped.err
    assert STOPPED in stopped.err.splitlines()


def test_both_stages_were_in_the_middle(stopped: Stopped) -> None:
    assert all(MIDDLE <= stopped.shown[stage] < STEPS for stage in STAGES)


def test_each_stage_is_saved_at_its_last_logged_step(stopped: Stopped) -> None:
    for stage in STAGES:
        (step,) = stopped.saved[stage]
        assert stopped.shown[stage] <= step < STEPS
        assert stopped.logged[stage] == list(range(1, step + 1))


def test_the_same_command_goes_on_and_repeats_no_step(recipe: Path, stopped: Stopped) -> None:
    code, out, err = ended(start(recipe))
    assert code == 0, out + err
    for stage in STAGES:
        assert f"{stage}: goes on from step {stopped.saved[stage][-1]}" in out
        assert logged(recipe, stage) == list(range(1, STEPS + 1))
        assert (folder_of(recipe, stage) / "DONE").exists()


def test_a_head_that_dies_ends_the_command_as_unavailable(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, stages=("only",), steps=100_000, save_every=20)
    process = start(recipe)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("only  running"):
            children = psutil.Process(process.pid).children(recursive=True)
            next(one for one in children if one.name() == "gcs_server").kill()
            break
    code, out, err = ended(process)
    assert code == 75, out + err
    (line,) = [line for line in err.splitlines() if line.startswith("rushes: ")]
    assert "lost Ray" in line
    assert "start the same command again" in line
    assert saved(recipe, "only")
