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
        self.now_s = 0.0
        self.overview = Overview(load_recipe(DEBUG), tell=self._tell, clock=lambda: self.now_s)

    def _tell(self, event: dict[str, Any]) -> None:
        assert (event["kind"], event["stage"]) == ("overview", None)
        self.tables.append(event["text"])

    def row(self, stage: str) -> str:
        return next(
            line for line in self.tables[-1].splitlines() if line.startswith(f"| {stage} |")
        )


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
