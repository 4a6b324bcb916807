"""A run of a gang whose clips, latents, checkpoints and results are all in a bucket."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.launch.status import read_status
from orchestrator.storage.store import open_store
from tests.ray.conftest import ROOT
from tests.tiny import tiny_tree

pytestmark = [pytest.mark.chaos, pytest.mark.s3, pytest.mark.ray, pytest.mark.slow]

STEPS = 100  # of the denoiser
LIMIT_S = 280


def recipe_in(bucket: str, *, folder: Path, stages: tuple[str, ...]) -> Path:
    tree: dict[str, Any] = tiny_tree(bucket, workers=2, zero=1)
    tree["tracking"] = {"uri": f"sqlite:///{folder}/mlflow.db"}
    tree["data"]["cache_dir"] = str(folder / "clips-cache")
    tree["stages"] = [stage for stage in tree["stages"] if stage["id"] in stages]
    dit = next(stage for stage in tree["stages"] if stage["id"] == "dit")
    dit["train"]["steps"] = STEPS
    del dit["train"]["preview"]
    dit["save"] = {"every_steps": STEPS // 2, "keep": 2}
    path = folder / f"{len(stages)}-stages.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def start(path: Path, *args: str) -> "subprocess.Popen[str]":
    """A command with a Ray of its own, whose processes inherit the way to the bucket."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "train", str(path), *args],
        cwd=ROOT,
        env=own | {"XDG_CACHE_HOME": str(path.parent / "cache"), "OMP_NUM_THREADS": "1"},
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


def curve(run: str) -> list[tuple[int, float]]:
    lines = open_store(run).get("stages/dit/metrics.jsonl").decode().splitlines()
    return [(one["step"], one["loss"]) for one in map(json.loads, lines)]


def copy_stages(source: str, target: str, *, stages: tuple[str, ...]) -> None:
    taken, given = open_store(source), open_store(target)
    for stage in stages:
        for key in taken.list(f"stages/{stage}/"):
            given.put(key, taken.get(key))


@pytest.mark.timeout(600)
def test_a_gang_stopped_in_a_bucket_goes_on_with_the_same_losses(
    bucket: str, tmp_path: Path
) -> None:
    stages = ("autoencoder", "encode", "dit", "evaluate")
    path, run = recipe_in(bucket, folder=tmp_path, stages=stages), f"{bucket}/runs/tiny"
    process = start(path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("dit  running"):
            process.send_signal(signal.SIGTERM)
            break
    code, out, err = ended(process)
    assert code == 143, out + err
    assert [one["state"] == "done" for one in read_status(run)["stages"]] == [
        True,
        True,
        False,
        False,
    ]
    # The straight run begins with the same latents, so that only the denoiser is trained twice.
    copy_stages(run, f"{bucket}/runs/straight", stages=("autoencoder", "encode"))

    code, out, err = ended(start(path))
    assert code == 0, out + err
    assert "dit: goes on from step" in out
    assert [one["state"] for one in read_status(run)["stages"]] == ["done"] * len(stages)
    kept = set(open_store(run).list(""))
    assert {f"stages/{stage}/DONE" for stage in stages} | {"recipe.json"} <= kept
    assert "stages/dit/weights/ema.safetensors" in kept
    assert [key for key in open_store(f"{bucket}/runs/.encoded").list("") if key.endswith(".tar")]
    assert not (tmp_path / "runs").exists()

    plain = recipe_in(bucket, folder=tmp_path, stages=stages[:3])
    code, out, err = ended(start(plain, "--local", "--run", f"{bucket}/runs/straight"))
    assert code == 0, out + err
    assert "autoencoder  running" not in out
    assert "encode  running" not in out
    assert curve(run) == curve(f"{bucket}/runs/straight")
    assert [step for step, _ in curve(run)] == list(range(1, STEPS + 1))
