"""How well ready stages are packed: seven equal ones in room for two, over the best packing.

The best packing is known from one stage alone and two side by side. docs/benchmarks.md says what is
counted and how.
"""

import argparse
import copy
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


@dataclass(frozen=True)
class Walks:
    """What was measured, on the same Ray: one alone before and after, two, and seven."""

    before: Walk
    two: Walk
    seven: Walk
    after: Walk


def measure(*, folder: Path, steps: int) -> Walks:
    """One stage alone before and after, two and seven in between, on the same Ray."""
    recipes = {
        name: _recipe(stages, name=name, folder=folder, steps=steps)
        for name, stages in (("before", 1), ("two", ROOM), ("seven", STAGES), ("after", 1))
    }
    # The first worker of a machine reads its libraries from a cold disk: that is no part of it.
    warm = _recipe(1, name="warm", folder=folder, steps=1)
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
        _walk(warm, folder=folder, data=data, executor=executor)
        walks = {
            name: _walk(one, folder=folder, data=data, executor=executor)
            for name, one in recipes.items()
        }
    finally:
        starting.close()
    return Walks(**walks)


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
    """Seven stages beside the best that they could take, from one alone and two side by side.

    Attributes:
        counted: what of a stage is meant.
        alone_s: of one stage alone, before the seven and after them.
        two_s: of two side by side.
        measured_s: of the seven.
    """

    counted: str
    alone_s: tuple[float, ...]
    two_s: float
    measured_s: float

    @property
    def best_s(self) -> float:
        """Rounds of two and a last stage alone, on this machine."""
        rounds, rest = divmod(STAGES, ROOM)
        return rounds * self.two_s + rest * self._one_s

    @property
    def free_s(self) -> float:
        """As many rounds of one alone: as if stages side by side took nothing of each other."""
        return -(-STAGES // ROOM) * self._one_s

    @property
    def _one_s(self) -> float:
        return sum(self.alone_s) / len(self.alone_s)

    @property
    def ratio(self) -> float:
        """How far from the best packing."""
        return self.measured_s / self.best_s

    def row(self, *, alongside: int, verdict: str) -> str:
        """Of the Markdown table."""
        alone = " and ".join(f"{one_s:.1f} s" for one_s in self.alone_s)
        return (
            f"| {self.counted} | {alone} | {self.two_s:.1f} s | {self.best_s:.1f} s "
            f"| {self.measured_s:.1f} s | {alongside} | {self.ratio:.3f} | {verdict} "
            f"| {self.measured_s / self.free_s:.3f} |"
        )


def packings(walks: Walks) -> tuple[Packing, Packing]:
    """Of whole stages, and of their steps alone."""
    alone = (walks.before, walks.after)
    return (
        Packing(
            counted="whole stages",
            alone_s=tuple(walk.total_s for walk in alone),
            two_s=walks.two.total_s,
            measured_s=walks.seven.total_s,
        ),
        Packing(
            counted="first to last step",
            alone_s=tuple(walk.work_s for walk in alone),
            two_s=walks.two.work_s,
            measured_s=walks.seven.work_s,
        ),
    )


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
        walks = measure(folder=Path(folder), steps=args.steps)
    whole, steps = packings(walks)
    verdict = "pass" if whole.ratio <= BUDGET else "fail"
    print(
        f"| counted | one alone | two | best packing | seven | side by side | ratio "
        f"| at most {BUDGET} | if they took nothing of each other |\n"
        f"| {' | '.join(['---'] * 9)} |\n"
        f"{whole.row(alongside=walks.seven.alongside, verdict=verdict)}\n"
        f"{steps.row(alongside=walks.seven.alongside, verdict='no bound')}"
    )
    return int(whole.ratio > BUDGET)


if __name__ == "__main__":
    raise SystemExit(main())
