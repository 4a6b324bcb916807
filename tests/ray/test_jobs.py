"""Recipes on a running head: `rushes submit`, plain `ray job submit`, stop and resume."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ray.conftest import ROOT, Head

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LIMIT_S = 280


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def test_submit_follows_a_whole_graph_to_its_end(
    head: Head, recipe_file: Any, tmp_path: Path
) -> None:
    path = recipe_file(stages=("autoencoder", "encode", "dit", "evaluate"))
    code, out, err = ended(
        head.rushes("submit", str(path), "--address", head.dashboard, "--follow")
    )
    assert code == 0, out + err
    run = tmp_path / "runs" / "tiny"
    for stage in ("autoencoder", "encode", "dit", "evaluate"):
        done = json.loads((run / "stages" / stage / "DONE").read_text())
        assert len(done["input"]) == len(done["output"]) == 64
    assert "sample video" in out
    assert "Traceback" not in out + err


def test_submit_ends_with_the_exit_code_of_a_failing_recipe(
    head: Head, recipe_file: Any, tmp_path: Path
) -> None:
    nowhere = tmp_path / "nowhere"
    args = ["--set", f"data.train={json.dumps({'uri': str(nowhere)})}"]
    code, out, err = ended(
        head.rushes("submit", str(recipe_file()), "--address", head.dashboard, "--follow", *args)
    )
    assert code == 2, out + err
    reasons = [line for line in out.splitlines() if line.startswith("rushes: ")]
    assert len(reasons) == 1
    assert str(nowhere) in reasons[0]
    assert "Traceback" not in out + err


def test_plain_ray_job_submit_runs_a_recipe(head: Head, recipe_file: Any, tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("orchestrator", "models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".rayignore", folder)
    shutil.copy(recipe_file(), folder / "tiny.yaml")
    (folder / ".env").write_text("AWS_SECRET_ACCESS_KEY=planted")
    submit = subprocess.Popen(
        [
            *(str(Path(sys.executable).parent / "ray"), "job", "submit"),
            *("--address", head.dashboard, "--working-dir", "."),
            *("--", "python", "-m", "orchestrator", "train", "tiny.yaml"),
            *("--set", "stages.autoencoder.compute.workers=0"),
        ],
        cwd=folder,
        env=head.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    code, out, err = ended(submit)
    assert code == 0, out + err
    assert (tmp_path / "runs" / "tiny" / "stages" / "autoencoder" / "DONE").exists()


def test_a_stopped_run_goes_on_by_the_same_command(
    head: Head, recipe_file: Any, tmp_path: Path
) -> None:
    path = recipe_file(steps=60)
    process = head.rushes("train", str(path), RAY_ADDRESS=head.gcs)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("autoencoder  running"):
            process.send_signal(signal.SIGTERM)
            break
    code, out, err = ended(process)
    assert code == 143, out + err
    stage = tmp_path / "runs" / "tiny" / "stages" / "autoencoder"
    (commit,) = stage.glob("checkpoints/*/COMMIT")
    stopped_at = int(commit.parent.name.removeprefix("step-"))
    assert 0 < stopped_at < 60
    assert not (stage / "DONE").exists()

    again = head.rushes("train", str(path), RAY_ADDRESS=head.gcs)
    code, out, err = ended(again)
    assert code == 0, out + err
    assert f"goes on from step {stopped_at}" in out
    steps = [
        json.loads(line)["step"] for line in (stage / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, 61))
