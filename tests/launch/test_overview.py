"""The table of stages on MLflow's parent run."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.launch.overview import EVERY_S, Overview
from orchestrator.recipe.load import load_recipe

DEBUG = Path(__file__).parents[2] / "jobs" / "sora_debug.yaml"


class Reader:
    """Keeps the tables it is told; time passes when it says so."""

    def __init__(self) -> None:
        self.tables: list[str] = []
        self.if_lost: list[str] = []
        self.now_s = 0.0
        self.overview = Overview(load_recipe(DEBUG), tell=self._tell, clock=lambda: self.now_s)

    def _tell(self, event: dict[str, Any]) -> None:
        assert (event["kind"], event["stage"]) == ("overview", None)
        self.tables.append(event["text"])
        self.if_lost.append(event["if_lost"])

    def row(self, stage: str) -> str:
        return row_of(self.tables[-1], stage)


def row_of(table: str, stage: str) -> str:
    return next(line for line in table.splitlines() if line.startswith(f"| {stage} |"))


@pytest.fixture
def reader() -> Reader:
    return Reader()


def progress(stage: str, step: int) -> dict[str, Any]:
    return {"kind": "progress", "stage": stage, "step": step, "steps": 60, "loss": 0.5}


def test_every_stage_has_a_row_from_the_start(reader: Reader) -> None:
    reader.overview.event({"kind": "status", "stage": "autoencoder", "text": "done before"})
    reader.overview.event({"kind": "run", "name": "sora-debug"})
    assert len(reader.tables[-1].splitlines()) == 2 + 4
    assert reader.row("autoencoder").startswith("| autoencoder | train | done before |")
    assert reader.row("dit").startswith("| dit | train | waiting |")


def test_progress_is_shown_now_and_then(reader: Reader) -> None:
    reader.overview.event({"kind": "stage", "stage": "dit"})
    for step in range(1, 50):
        reader.overview.event(progress("dit", step))
    assert len(reader.tables) == 1
    reader.now_s = EVERY_S
    reader.overview.event(progress("dit", 50))
    assert "| running | 50/60 | loss 0.5 |" in reader.row("dit")


def test_a_failure_says_why_and_what_did_not_start(reader: Reader) -> None:
    reader.overview.event({"kind": "stage", "stage": "autoencoder"})
    reason = {"kind": "note", "stage": "autoencoder", "text": "lr=1|2\nis high", "failure": True}
    reader.overview.event(reason)
    reader.overview.event({"kind": "end", "stage": "autoencoder", "status": "FAILED"})
    assert reader.row("autoencoder").endswith("lr=1\\|2 is high |")
    reader.overview.event({"kind": "end", "stage": None, "status": "FAILED"})
    assert "| not started |" in reader.row("dit")
    assert "| failed |" in reader.row("autoencoder")


def test_the_table_for_a_lost_driver_says_that_nothing_runs(reader: Reader) -> None:
    reader.overview.event({"kind": "status", "stage": "autoencoder", "text": "done before"})
    reader.overview.event({"kind": "stage", "stage": "encode"})
    reader.overview.event({"kind": "end", "stage": "encode", "status": "FINISHED"})
    reader.overview.event({"kind": "stage", "stage": "dit"})
    reader.overview.event(progress("dit", 7))
    reader.now_s = EVERY_S
    reader.overview.event({**progress("dit", 8), "eta_s": 90.0})
    lost = reader.if_lost[-1]
    assert "| done before |" in row_of(lost, "autoencoder")
    assert "| done |" in row_of(lost, "encode")
    assert "| stopped | 8/60 | loss 0.5 |  |  | its command died;" in row_of(lost, "dit")
    assert "| not started |" in row_of(lost, "evaluate")
    assert "| running | 8/60 |" in reader.row("dit")  # as long as it is there
