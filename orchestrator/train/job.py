"""What a process is told to do, as JSON."""

from typing import Literal

from pydantic import PositiveInt

from models.config import Strict
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage


class StageJob(Strict):
    """One stage of one run, handed over a process boundary."""

    recipe: Recipe
    stage: str
    run: str  # absolute URI of the run's folder
    attempt: PositiveInt

    @property
    def spec(self) -> Stage:
        """The stage's part of the recipe."""
        return self.recipe.stage(self.stage)

    @property
    def folder(self) -> str:
        """The stage's folder inside the run."""
        return f"stages/{self.stage}"


class StageResult(Strict):
    """How a stage's worker ended."""

    status: Literal["done", "stopped"]
    step: int
