"""Runs without Ray, from the command to the files in the run's folder."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[2]
LIMIT_S = 280


@pytest.fixture
def recipe_file(tmp_path: Path):
    def write(*, stages: tuple[str, ...], workers: int, steps: int) -> Path:
        tree = yaml.safe_load((ROOT / "jobs" / "sora_debug.yaml").read_text())
        tree |= {"name": "tiny", "runs": str(tmp_path / "runs")}
        tree["tracking"] = {"uri": f"sqlite:///{tmp_path}/mlflow.db"}
        for split, count in (("train", 16), ("eval", 4)):
            tree["data"][split] = {"uri": str(tmp_path / split), "digits": {"clips": count}}
        tree["stages"] = [stage for stage in tree["stages"] if stage["id"] in stages]
        for stage in tree["stages"]:
            if "train" in stage:
                train = stage["train"]
                train |= {"steps": steps, "batch": 4, "micro_batch": 2, "log_every": 1}
                train["optim"]["warmup_steps"] = 1
                train.pop("preview", None)
                stage["compute"]["workers"] = workers
                stage["save"] = {"every_steps": steps}
            if "evaluate" in stage:
                stage["evaluate"]["prompts"] = 2
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


def start(path: Path, *args: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "train", str(path), "--local", *args],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(path.parent / "cache"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


@pytest.mark.slow
def test_a_whole_graph_runs_in_one_process(recipe_file: Any, tmp_path: Path) -> None:
    path = recipe_file(stages=("autoencoder", "encode", "dit", "evaluate"), workers=0, steps=2)
    code, out, err = ended(start(path))
    assert (code, err) == (0, ""), out + err
    run = tmp_path / "runs" / "tiny"
    assert {done.parent.name for done in run.glob("stages/*/DONE")} == {
        *("autoencoder", "encode", "dit", "evaluate")
    }
    assert f"sample video: {run}/stages/evaluate/samples.mp4" in out
    assert "open MLflow: " in out


@pytest.mark.slow
def test_a_gang_of_processes_stops_saved_and_goes_on(recipe_file: Any, tmp_path: Path) -> None:
    path = recipe_file(stages=("autoencoder",), workers=2, steps=40)
    process = start(path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("autoencoder  running"):
            process.send_signal(signal.SIGINT)
            break
    code, out, err = ended(process)
    assert code == 143, out + err
    assert err.splitlines() == ["rushes: stopped and saved; the same command goes on from here"]
    stage = tmp_path / "runs" / "tiny" / "stages" / "autoencoder"
    (commit,) = stage.glob("checkpoints/*/COMMIT")
    stopped_at = int(commit.parent.name.removeprefix("step-"))

    code, out, err = ended(start(path))
    assert code == 0, out + err
    assert f"goes on from step {stopped_at}" in out
    lines = (stage / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 41))


def test_missing_clips_end_the_command_before_a_worker_starts(
    recipe_file: Any, tmp_path: Path
) -> None:
    path = recipe_file(stages=("autoencoder",), workers=2, steps=2)
    nowhere = tmp_path / "nowhere"
    override = f"data.train={json.dumps({'uri': str(nowhere)})}"
    code, _, err = ended(start(path, "--set", override))
    assert code == 2
    assert len(err.splitlines()) == 1
    assert str(nowhere) in err
    assert not (tmp_path / "runs" / "tiny" / "stages").exists()


@pytest.mark.slow
def test_a_killed_rank_ends_the_gang_with_its_name_and_log(recipe_file: Any) -> None:
    path = recipe_file(stages=("autoencoder",), workers=2, steps=10_000)
    process = start(path)
    assert process.stdout is not None
    ranks: list[psutil.Process] = []
    for line in process.stdout:
        if line.startswith("autoencoder  running"):
            ranks = ranks_of(process)
            next(one for one in ranks if one.environ()["RANK"] == "1").kill()
            break
    code, out, err = ended(process)
    assert code == 1, out + err
    (line,) = err.splitlines()
    assert "stage autoencoder: rank 1 ended with -9" in line
    assert Path(line.rpartition("log: ")[2]).exists()
    assert len(ranks) == 2
    assert not [one for one in ranks if one.is_running()]


def ranks_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    children = psutil.Process(process.pid).children()
    return [one for one in children if "orchestrator.train" in one.cmdline()]
