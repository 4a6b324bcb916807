"""`rushes evaluate`: the recipe's metrics on held-out prompts, measured now."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import UserError
from orchestrator.launch.run_folder import open_run
from orchestrator.train.evaluate import evaluate
from orchestrator.train.evaluation.digits import SHARES
from orchestrator.train.hooks import NeverPaused
from orchestrator.train.job import StageJob


@dataclass(frozen=True)
class _Watch(NeverPaused):
    """Hooks that only count clips."""

    on_clips: Callable[[int, int], None]

    def event(self, event: dict[str, Any]) -> None:
        """Passes progress on."""
        if event["kind"] == "progress":
            self.on_clips(event["step"], event["steps"])

    def should_stop(self) -> bool:
        """Never: a second Ctrl-C ends the process."""
        return False


def evaluate_run(uri: str, *, on_clips: Callable[[int, int], None]) -> dict[str, Any]:
    """Every evaluate stage's report by stage id.

    Raises:
        UserError: if the recipe has no evaluate stage, or what it evaluates is not finished.
    """
    store, recipe = open_run(uri)
    stages = [stage.id for stage in recipe.stages if stage.evaluate is not None]
    if not stages:
        raise UserError(
            f"recipe {recipe.name} has no evaluate stage, wanted at least one, such as "
            "{id: evaluate, evaluate: {model: STAGE}}; add it and train again: what is finished "
            "is kept"
        )
    return {
        stage: evaluate(
            StageJob(recipe=recipe, stage=stage, run=store.uri, attempt=1),
            hooks=_Watch(on_clips),
        )
        for stage in stages
    }


def shown(name: str, value: float) -> str:
    """A number of a report with its unit: shares of right answers, dB, counts, plain numbers."""
    if name in SHARES:
        return f"{value:.1%}"
    if "/" in name and not name.endswith("-lpips"):
        return f"{value:.2f} dB"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
