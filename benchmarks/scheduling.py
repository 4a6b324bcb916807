"""How well ready stages are packed: seven equal ones in room for two, over the best packing.

Whole stages count, and their steps alone. docs/benchmarks.md says what is counted and how.
"""

import argparse
import copy
import math
import os
import platform
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orchestrator.cascade.attempt import begin
from orchestrator.cascade.executor import Executor
from orchestrator.cascade.run import Graph, raise_first_failure
from orchestrator.data.sources import ensure_sources
from orchestrator.launch.places import with_absolute_uris
from orchestrator.launch.ray_session import Starting
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import open_store

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "jobs" / "sora_debug.yaml"
STAGES = 7
ROOM = 2
BUDGET = 1.15


@dataclass
class Walk:
    """When stages began and ended, in seconds after the walk over their graph began."""

    total_s: float = 0.0
    began_s: dict[str, float] = field(default_factory=dict[str, float])
    first_step_s: dict[str, float] = field(default_factory=dict[str, float])
    last_step_s: dict[str, float] = field(default_factory=dict[str, float])
    ended_s: dict[str, float] = field(default_factory=dict[str, float])

    def take(self, event: dict[str, Any], *, now_s: float) -> None:
        """Keeps the time of an event."""
        stage = event.get("stage")
        if stage is None:
            return
        match event["kind"]:
            case "stage":
                self.began_s[stage] = now_s
            case "progress":
                self.first_step_s.setdefault(stage, now_s)
                self.last_step_s[stage] = now_s
            case "end":
                self.ended_s[stage] = now_s
            case _:
                pass

    @property
    def work_s(self) -> float:
        """From the first step that any stage logged to the last one."""
        return max(self.last_step_s.values()) - min(self.first_step_s.values())

    @property
    def alongside(self) -> int:
        """The most stages that ran at one time."""
        return max(
            sum(self.began_s[one] <= now_s < self.ended_s[one] for one in self.began_s)
            for now_s in self.began_s.values()
        )


def measure(*, folder: Path, steps: int) -> tuple[list[Walk], Walk]:
    """One stage alone before and after, and seven in between, on the same Ray."""
    recipes = {
        name: _recipe(stages, name=name, folder=folder, steps=steps)
        for name, stages in (("before", 1), ("seven", STAGES), ("after", 1))
    }
    # A private Ray has room for all stages of the recipe that it is started for.
    starting = Starting(_recipe(ROOM, name="room", folder=folder, steps=steps))
    try:
        clips = ensure_sources(recipes["seven"], on_clips=lambda *_: None)
        data = {split: index.digest for split, index in clips.items()}
        session = starting.result()
        # Late: ray is imported in the thread that starts it.
        from orchestrator.cascade.ray_executor import RayExecutor

        executor = RayExecutor(
            scratch=folder / "scratch", logs=folder / "logs", private=session.private
        )
        _say(f"Ray is ready, load {os.getloadavg()[0]:.2f}")
        walks = {
            name: _walk(one, folder=folder, data=data, executor=executor)
            for name, one in recipes.items()
        }
    finally:
        starting.close()
    return [walks["before"], walks["after"]], walks["seven"]


def _recipe(stages: int, *, name: str, folder: Path, steps: int) -> Recipe:
    """Copies of the debug recipe's autoencoder that need nothing of each other."""
    tree = yaml.safe_load(RECIPE.read_text())
    tree |= {"name": name, "runs": str(folder)}
    tree["tracking"] = {"uri": f"sqlite:///{folder}/mlflow.db"}
    for split in ("train", "eval"):
        tree["data"][split]["uri"] = str(folder / "clips" / split)
    tree["data"]["cache_dir"] = str(folder / "cache")
    stage = copy.deepcopy(tree["stages"][0])
    stage["train"] |= {"steps": steps}
    stage["train"].pop("preview", None)
    stage["compute"] = {"workers": 1, "zero": 1}
    tree["stages"] = [stage | {"id": f"stage-{number}"} for number in range(stages)]
    return with_absolute_uris(parse_recipe(tree, origin="scheduling"))


def _walk(recipe: Recipe, *, folder: Path, data: dict[str, str], executor: Executor) -> Walk:
    store = open_store(str(folder / recipe.name))
    walk = Walk()
    lock = threading.Lock()
    started_s = time.monotonic()

    def on_event(event: dict[str, Any]) -> None:
        with lock:
            walk.take(event, now_s=time.monotonic() - started_s)

    outcomes = Graph(
        recipe=recipe,
        store=store,
        attempt=begin(store, recipe, data=data),
        data=data,
        executor=executor,
        on_event=on_event,
        stop=threading.Event(),
        logs=folder / "logs",
    ).run()
    walk.total_s = time.monotonic() - started_s
    raise_first_failure(outcomes)
    _say(f"{len(recipe.stages)} stages took {walk.total_s:.1f} s")
    for stage, began_s in sorted(walk.began_s.items(), key=lambda one: one[1]):
        first_s, ended_s = walk.first_step_s[stage], walk.ended_s[stage]
        _say(f"  {stage}: from {began_s:.1f} s, first log {first_s:.1f} s, to {ended_s:.1f} s")
    return walk


@dataclass(frozen=True)
class Packing:
    """Seven stages beside the best that they could take: rounds of one alone.

    Attributes:
        counted: what of a stage is meant.
        alone_s: of one stage alone, before the seven and after them.
        measured_s: of the seven.
    """

    counted: str
    alone_s: tuple[float, ...]
    measured_s: float

    @property
    def best_s(self) -> float:
        """Rounds of as many as there is room for."""
        return -(-STAGES // ROOM) * sum(self.alone_s) / len(self.alone_s)

    @property
    def ratio(self) -> float:
        """How far from the best packing."""
        return self.measured_s / self.best_s if self.best_s else math.nan

    def row(self, *, alongside: int, verdict: str) -> str:
        """Of the Markdown table."""
        alone = " and ".join(f"{one_s:.1f} s" for one_s in self.alone_s)
        return (
            f"| {self.counted} | {STAGES} | {ROOM} | {alone} | {self.best_s:.1f} s "
            f"| {self.measured_s:.1f} s | {alongside} | {self.ratio:.3f} | {verdict} |"
        )


def packings(alone: list[Walk], seven: Walk) -> tuple[Packing, Packing]:
    """Of whole stages, and of their steps alone."""
    whole = Packing("whole stages", tuple(walk.total_s for walk in alone), seven.total_s)
    steps = Packing("first to last step", tuple(walk.work_s for walk in alone), seven.work_s)
    return whole, steps


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Measures; exit code 1 above the budget."""
    parser = argparse.ArgumentParser(description="seven equal stages in room for two")
    parser.add_argument("--steps", type=int, default=250, help="of each stage")
    args = parser.parse_args()
    cpus = os.cpu_count() or 1
    if cpus < ROOM:
        parser.error(f"this machine has {cpus} CPU, wanted at least {ROOM}")
    os.environ.pop("RAY_ADDRESS", None)  # the room is counted on a Ray of our own
    _say(f"{platform.platform()}, {cpus} CPUs, load {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory(prefix="rushes-scheduling-") as folder:
        alone, seven = measure(folder=Path(folder), steps=args.steps)
    whole, steps = packings(alone, seven)
    verdict = "pass" if whole.ratio <= BUDGET else "fail"
    print(
        f"| counted | stages | room | one alone | best packing | measured | side by side "
        f"| ratio | at most {BUDGET} |\n| {' | '.join(['---'] * 9)} |\n"
        f"{whole.row(alongside=seven.alongside, verdict=verdict)}\n"
        f"{steps.row(alongside=seven.alongside, verdict='no bound')}"
    )
    return int(whole.ratio > BUDGET)


if __name__ == "__main__":
    raise SystemExit(main())
