"""A gang of plain processes: what a signal does to ranks that have only just started."""

import subprocess
import sys
import threading
from pathlib import Path

from orchestrator.cascade.gang import run_gang
from orchestrator.train.job import StageJob, StageResult
from tests.tiny import tiny_recipe

ROOT = Path(__file__).parents[2]


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
