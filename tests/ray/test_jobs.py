"""Recipes on a running head: `rushes submit`, plain `ray job submit`, stop and resume."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from orchestrator.launch.meters import METRICS, Kind
from orchestrator.launch.ray_session import WANTED_TOKEN
from tests.ray.conftest import ROOT, Head

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

LIMIT_S = 280
BIG = 1 << 20  # bytes of the files that no job needs
STAGES = ("autoencoder", "encode", "dit", "evaluate")
SERIES = re.compile(r"(\w+)\{(.*)\} (\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


@contextmanager
def scraped(head: Head) -> Iterator[set[str]]:
    """What Ray's endpoint says of any run while the body lasts, as Prometheus would ask for it."""
    lines: set[str] = set()
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(0.5):
            with suppress(OSError), urlopen(head.metrics, timeout=10) as answer:
                text = answer.read().decode()
                lines.update(one for one in text.splitlines() if one.startswith("ray_rushes_"))

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        over.set()
        thread.join()


def check_metrics(lines: set[str], *, run: Path) -> None:
    """All metrics of a whole graph, by their names there, with their labels and sensible values."""
    seen: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        name, text, value = SERIES.fullmatch(line).groups()  # pyright: ignore[reportOptionalMemberAccess]
        labels = dict(LABEL.findall(text))
        if labels.get("run") == str(run):  # the head still shows those of runs before
            assert math.isfinite(float(value)), line
            seen.setdefault(name, []).append(labels)
    wanted = {
        f"ray_{one.name}{'_total' if one.kind is Kind.COUNTER else ''}": one for one in METRICS
    }
    assert set(seen) == set(wanted)
    for name, series in seen.items():
        for labels in series:
            assert set(wanted[name].tags) <= set(labels)
    assert {one["stage"] for one in seen["ray_rushes_running"]} == set(STAGES)
    ranks = {one["rank"] for one in seen["ray_rushes_rank_seconds_total"]}
    assert ranks == {"0", "1"}


def test_submit_follows_a_whole_graph_to_its_end(
    head: Head, recipe_file: Any, tmp_path: Path
) -> None:
    path = recipe_file(stages=STAGES)
    with scraped(head) as lines:
        code, out, err = ended(
            head.rushes("submit", str(path), "--address", head.dashboard, "--follow")
        )
    assert code == 0, out + err
    run = tmp_path / "runs" / "tiny"
    check_metrics(lines, run=run)
    for stage in STAGES:
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


@pytest.fixture
def checkout(recipe_file: Any, tmp_path: Path) -> Path:
    """A folder as a user submits it: our code, a recipe, a secret and something big."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("orchestrator", "models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".rayignore", folder)
    shutil.copy(recipe_file(), folder / "tiny.yaml")
    (folder / ".env").write_text("AWS_SECRET_ACCESS_KEY=planted")
    (folder / "weights.safetensors").write_bytes(bytes(BIG))
    (folder / "runs").mkdir()
    (folder / "runs" / "frames.bin").write_bytes(bytes(BIG))
    return folder


def ray_job_submit(head: Head, folder: Path, *command: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            *(str(Path(sys.executable).parent / "ray"), "job", "submit"),
            *("--address", head.dashboard, "--working-dir", ".", "--", *command),
        ],
        cwd=folder,
        env=head.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_plain_ray_job_submit_runs_a_recipe_and_sends_code_only(
    head: Head, checkout: Path, tmp_path: Path
) -> None:
    sent = tmp_path / "sent"
    listing = f"find . -type f -fprintf {sent} %s:%P%%"
    training = "python -m orchestrator train tiny.yaml --set stages.autoencoder.compute.workers=0"
    job = ray_job_submit(head, checkout, "bash", "-c", f"{listing} && {training}")
    code, out, err = ended(job)
    assert code == 0, out + err
    assert (tmp_path / "runs" / "tiny" / "stages" / "autoencoder" / "DONE").exists()
    files = [one.partition(":") for one in sent.read_text().split("%") if one]
    names = {name for _, _, name in files}
    assert {"tiny.yaml", "orchestrator/__main__.py"} <= names
    assert not names & {".env", "weights.safetensors", "runs/frames.bin"}
    assert all(int(size) < BIG for size, _, _ in files)


def test_plain_ray_job_submit_fails_with_the_one_line_of_a_failing_recipe(
    head: Head, checkout: Path
) -> None:
    training = ("python", "-m", "orchestrator", "train", "tiny.yaml")
    override = ("--set", "stages.autoencoder.train.batch=33")
    code, out, err = ended(ray_job_submit(head, checkout, *training, *override))
    assert code == 1, out + err
    reasons = [line for line in (out + err).splitlines() if line.startswith("rushes: ")]
    assert len(set(reasons)) == 1
    assert "train.batch=33 is not a multiple" in reasons[0]
    assert "Traceback" not in out


def newest_step(stage: Path) -> int:
    """Of the committed checkpoints; a fast machine saves one before it is told to stop."""
    commits = stage.glob("checkpoints/*/COMMIT")
    return max(int(commit.parent.name.removeprefix("step-")) for commit in commits)


@pytest.mark.chaos
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
    stopped_at = newest_step(stage)
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


@pytest.mark.chaos
def test_a_stopped_job_saves_and_goes_on_by_the_same_command(
    head: Head, recipe_file: Any, tmp_path: Path
) -> None:
    """From a folder with a secret and 2 GB; the stop is `rushes job stop`, which is Ray's own."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".env").write_text("AWS_SECRET_ACCESS_KEY=planted")
    with (folder / "clips.bin").open("wb") as file:
        file.truncate(2 * 10**9)
    where = ("--address", head.dashboard)
    # A relative place means this machine's, which the head is on.
    place = ("--set", "tracking.uri=sqlite:///mlflow.db")
    submit = ("submit", str(recipe_file(steps=400)), *where, *place)
    code, out, err = ended(head.rushes(*submit, cwd=folder))
    assert code == 0, out + err
    job = out.partition("\njob    ")[2].partition("\n")[0]

    code, out, err = ended(head.rushes(*submit, cwd=folder))
    assert code == 0, out + err
    assert f"job {job} runs this already" in out

    following = head.rushes("job", "follow", job, *where)
    assert following.stdout is not None
    for line in following.stdout:
        if line.startswith("autoencoder  running"):
            break
    code, out, err = ended(head.rushes("job", "stop", str(tmp_path / "runs" / "tiny"), *where))
    assert code == 0, out + err
    assert f"job {job} was stopped" in out
    assert ended(following)[0] == 143
    stage = tmp_path / "runs" / "tiny" / "stages" / "autoencoder"
    stopped_at = newest_step(stage)
    assert 0 < stopped_at < 400
    assert not (stage / "DONE").exists()

    again = (*submit, "--follow")
    process = head.rushes(*again, cwd=folder)
    assert process.stdout is not None
    for line in process.stdout:
        if f"goes on from step {stopped_at}" in line:
            process.send_signal(signal.SIGTERM)  # the other way to stop it
            break
    code, out, err = ended(process)
    assert code == 143, out + err
    assert stopped_at < newest_step(stage) < 400

    code, out, err = ended(head.rushes("job", "list", *where, "--json"))
    assert code == 0, err
    found = [
        one for one in json.loads(out) if one["metadata"].get("rushes.run") == str(stage.parents[1])
    ]
    assert [one["status"] for one in found] == ["STOPPED", "STOPPED"]
    assert (folder / "mlflow.db").exists()
    sent = {path.name for path in head.session.glob("runtime_resources/working_dir_files/*/*")}
    assert {"orchestrator", "models", "jobs"} <= sent
    assert not sent & {".env", "clips.bin"}


NO_TOKEN = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": ""}
OTHER_TOKEN = {"RAY_AUTH_TOKEN": "f" * 64}


@pytest.mark.parametrize("env", [NO_TOKEN, OTHER_TOKEN], ids=["none", "another"])
def test_a_client_without_the_token_is_refused(
    head: Head, recipe_file: Any, env: dict[str, str]
) -> None:
    submit = ("submit", str(recipe_file()), "--address", head.dashboard)
    code, out, err = ended(head.rushes(*submit, cwd=ROOT, **env))
    assert code == 2, out + err
    assert len(err.splitlines()) == 1
    assert WANTED_TOKEN in err


def test_a_driver_with_another_token_is_refused(head: Head, recipe_file: Any) -> None:
    """By Ray's core, which says so in lines of its own before ours."""
    process = head.rushes(
        "train", str(recipe_file()), cwd=ROOT, RAY_ADDRESS=head.gcs, **OTHER_TOKEN
    )
    code, out, err = ended(process)
    assert code in (2, 75), out + err
    line = err.splitlines()[-1]
    assert line.startswith(f"rushes: RAY_ADDRESS={head.gcs}: cannot join: ")
    assert WANTED_TOKEN in line
    assert OTHER_TOKEN["RAY_AUTH_TOKEN"] not in out + err
