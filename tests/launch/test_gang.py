"""A gang of plain processes: what a signal does to ranks that have only just started."""

import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from orchestrator.cascade.gang import run_gang
from orchestrator.data.sources import ensure_sources
from orchestrator.recipe.load import parse_recipe
from orchestrator.train.job import StageJob, StageResult
from tests.tiny import tiny_recipe, tiny_tree

ROOT = Path(__file__).parents[2]
LIMIT_S = 120.0
DRIVER = """
import json, sys, threading
from pathlib import Path
from orchestrator.cascade.gang import run_gang
from orchestrator.train.job import StageJob

job = StageJob.model_validate_json(Path(sys.argv[1]).read_text())
run_gang(
    job,
    on_event=lambda event: print(event["kind"], flush=True),
    stop=threading.Event(),
    logs=Path(sys.argv[1]).parent / "logs",
)
"""


def test_a_stop_while_ranks_start_is_a_stop_and_no_failure(tmp_path: Path) -> None:
    job = StageJob(
        recipe=tiny_recipe(tmp_path, workers=2),
        stage="autoencoder",
        run=str(tmp_path / "run"),
        attempt=1,
    )
    stop = threading.Event()
    stop.set()  # the ranks' SIGTERM comes before their interpreters are up
    result = run_gang(job, on_event=lambda _: None, stop=stop, logs=tmp_path / "logs")
    assert result == StageResult(status="stopped", step=0)


def test_a_rank_listens_to_signals_before_it_imports_torch() -> None:
    program = "import sys, orchestrator.train.__main__; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == 0


@pytest.mark.chaos
@pytest.mark.slow
def test_ranks_save_and_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path, workers=2)
    tree["stages"][0]["train"]["steps"] = 10_000
    recipe = parse_recipe(tree, origin="tiny")
    ensure_sources(recipe, on_clips=lambda *_: None)
    job = StageJob(recipe=recipe, stage="autoencoder", run=str(tmp_path / "run"), attempt=1)
    path = tmp_path / "job.json"
    path.write_text(job.model_dump_json())
    command = [sys.executable, "-c", DRIVER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert next(line for line in driver.stdout if line == "metrics\n")
        ranks = psutil.Process(driver.pid).children()
        driver.kill()
        _, alive = psutil.wait_procs(ranks, timeout=LIMIT_S)
    assert len(ranks) == 2
    assert alive == []
    assert list((tmp_path / "run" / job.folder / "checkpoints").glob("*/COMMIT"))
