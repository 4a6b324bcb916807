"""Runs without Ray, from the command to the files in the run's folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from orchestrator.cascade.ends import read_end
from orchestrator.cascade.goodput_file import read_rows
from orchestrator.launch.status import read_status
from orchestrator.recipe.recipe import Tracking
from orchestrator.storage.attempts import newest_attempt
from orchestrator.storage.store import open_store
from orchestrator.tracking.tracker import Tracker
from orchestrator.train.latents import ENCODED

ROOT = Path(__file__).parents[2]
LIMIT_S = 280


GRAPH = ("autoencoder", "encode", "dit", "evaluate")
STOPPED = ["rushes: stopped and saved; the same command goes on from here"]


def write_recipe(folder: Path, *, stages: tuple[str, ...], workers: int, steps: int) -> Path:
    """A recipe whose clips and run are below ``folder``."""
    tree = yaml.safe_load((ROOT / "jobs" / "sora_debug.yaml").read_text())
    tree |= {"name": "tiny", "runs": str(folder / "runs")}
    tree["tracking"] = {"uri": f"sqlite:///{folder}/mlflow.db"}
    for split, count in (("train", 16), ("eval", 4)):
        tree["data"][split] = {"uri": str(folder / split), "digits": {"clips": count}}
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
            stage["evaluate"] |= {"prompts": 2, "batch": 1}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture
def recipe_file(tmp_path: Path) -> Any:
    return partial(write_recipe, tmp_path)


def graph_recipe(folder: Path) -> Path:
    return write_recipe(folder, stages=GRAPH, workers=0, steps=2)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The stages' folder of a run of a whole graph that nobody stopped, and what was printed."""
    path = graph_recipe(tmp_path_factory.mktemp("graph"))
    code, out, err = ended(start(path))
    assert (code, err) == (0, ""), out + err
    return stages_of(path), out


def stages_of(path: Path) -> Path:
    return path.parent / "runs" / "tiny" / "stages"


def curve(stages: Path, stage: str) -> list[tuple[int, float]]:
    """Every step and its loss."""
    lines = (stages / stage / "metrics.jsonl").read_text().splitlines()
    return [(one["step"], one["loss"]) for one in map(json.loads, lines)]


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
def test_a_whole_graph_runs_in_one_process(straight: tuple[Path, str]) -> None:
    stages, out = straight
    assert {done.parent.name for done in stages.glob("*/DONE")} == set(GRAPH)
    assert f"sample video: {stages}/evaluate/samples.mp4" in out
    assert "open MLflow: " in out


@pytest.mark.slow
def test_the_time_of_every_stage_is_accounted_for_and_charted(
    straight: tuple[Path, str],
) -> None:
    stages, out = straight
    run = stages.parent
    goodput = read_status(str(run))["goodput"]
    assert set(goodput["stages"]) == set(GRAPH)
    assert set(goodput["stages"]["encode"]["seconds"]) == {"compute"}
    assert set(goodput["stages"]["evaluate"]["seconds"]) == {"evaluation"}
    for stage in ("autoencoder", "dit"):
        assert goodput["stages"][stage]["seconds"]["compute"] > 0.0
    rows, _ = read_rows(open_store(str(run)))
    assert sum(row.gap_s for row in rows) <= 0.01 * goodput["total"]["rank_seconds"]
    (line,) = [line for line in out.splitlines() if line.startswith("goodput: ")]
    assert line.startswith(f"goodput: {100 * goodput['total']['goodput']:.1f} % of ")

    stored = charts(run.parents[1])
    names = {f"goodput/{name}" for name in goodput["total"]["seconds"]}
    assert names <= set(stored[None])
    assert set(stored) == {None, *GRAPH}
    for name, stage in goodput["stages"].items():
        last = stored[name]["goodput/rank_hours"][-1]
        assert last == pytest.approx(stage["rank_seconds"] / 3600)


def charts(folder: Path) -> dict[str | None, dict[str, list[float]]]:
    """All values of goodput metrics in MLflow, by stage (None: the run) and name."""
    from mlflow import MlflowClient

    spool, run_uri = folder / "cache" / "rushes" / "spool", str(folder / "runs" / "tiny")
    tracking = Tracking(uri=f"sqlite:///{folder}/mlflow.db")
    # On a busy machine the command leaves a rest to the next start.
    attempt = newest_attempt(open_store(run_uri))
    tracker = Tracker(tracking=tracking, run_uri=run_uri, attempt=attempt, spool_dir=spool)
    assert tracker.close(LIMIT_S)
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'rushes'")
    found: dict[str | None, dict[str, list[float]]] = {}
    for run in client.search_runs([experiment.experiment_id]):
        stage = run.data.tags.get("rushes.stage")
        found[stage] = {}
        for name in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, name)
            steps = [point.step for point in history]
            if name.startswith("goodput/"):
                assert len(set(steps)) == len(steps)
                found[stage][name] = [one.value for one in history]
    return found


def stop_at(path: Path, line: str, *, by: signal.Signals) -> tuple[int, str, str]:
    """Runs a recipe and sends a signal as soon as a line is printed that begins so."""
    process = start(path)
    assert process.stdout is not None
    for printed in process.stdout:
        if printed.startswith(line):
            process.send_signal(by)
            break
    return ended(process)


@pytest.mark.chaos
@pytest.mark.slow
def test_a_gang_that_is_stopped_while_it_starts_has_been_stopped(recipe_file: Any) -> None:
    path = recipe_file(stages=("autoencoder",), workers=2, steps=10_000)
    code, out, err = stop_at(path, "autoencoder  starting", by=signal.SIGINT)
    assert (code, err.splitlines()) == (143, STOPPED), out + err
    assert not (stages_of(path) / "autoencoder" / "DONE").exists()
    end = read_end(open_store(str(stages_of(path).parent)), attempt=1)
    assert end is not None
    assert (end["exit_code"], f"rushes: {end['why']}") == (143, *STOPPED)


@pytest.mark.chaos
@pytest.mark.slow
def test_a_graph_that_is_stopped_between_trainings_goes_on_with_the_same_losses(
    straight: tuple[Path, str], tmp_path: Path
) -> None:
    path = graph_recipe(tmp_path)
    for stage in ("encode", "evaluate"):
        code, out, err = stop_at(path, f"{stage}  starting", by=signal.SIGTERM)
        assert (code, err.splitlines()) == (143, STOPPED), out + err
        assert not (stages_of(path) / "evaluate" / "DONE").exists()
    code, out, err = ended(start(path))
    assert (code, err) == (0, ""), out + err
    found, wanted = stages_of(path), straight[0]
    for trained in ("autoencoder", "dit"):
        assert curve(found, trained) == curve(wanted, trained)
    reports = [stages / "evaluate" / "report.json" for stages in (found, wanted)]
    assert len({report.read_text() for report in reports}) == 1


def beside(straight: Path, *, name: str, folder: Path, kept: tuple[str, ...]) -> Path:
    """The recipe of ``straight`` without evaluation, and a run beside it that has stages of it."""
    runs = straight.parents[1]
    tree = yaml.safe_load((runs.parent / "tiny.yaml").read_text())
    tree["stages"] = [stage for stage in tree["stages"] if stage["id"] != "evaluate"]
    tree["tracking"] = {"uri": f"sqlite:///{folder}/mlflow.db"}
    for stage in kept:
        shutil.copytree(straight / stage, runs / name / "stages" / stage)
    path = folder / "beside.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.slow
def test_a_run_beside_another_takes_over_what_that_has_encoded(
    straight: tuple[Path, str], tmp_path: Path
) -> None:
    stages, _ = straight
    path = beside(stages, name="second", folder=tmp_path, kept=("autoencoder",))
    second = stages.parents[1] / "second"
    code, out, err = ended(start(path, "--run", str(second)))
    assert (code, err) == (0, ""), out + err
    assert "encode: 1 of 1 shards were encoded before" in out.splitlines()
    assert curve(second / "stages", "dit") == curve(stages, "dit")


@pytest.mark.slow
def test_a_run_whose_latents_were_deleted_encodes_them_again(
    straight: tuple[Path, str], tmp_path: Path
) -> None:
    stages, _ = straight
    path = beside(stages, name="third", folder=tmp_path, kept=("autoencoder", "encode"))
    third = stages.parents[1] / "third"
    shutil.rmtree(stages.parents[1] / ENCODED)
    code, out, err = ended(start(path, "--run", str(third)))
    assert (code, err) == (0, ""), out + err
    again = "encode: was done, but shards of its latents are gone: it encodes them again"
    assert again in out.splitlines()
    assert curve(third / "stages", "dit") == curve(stages, "dit")


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


@pytest.mark.chaos
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
