"""What the full stack costs: its step time over that of a bare PyTorch loop.

Both train the ``dit`` stage of jobs/sora_debug.yaml with the same task, engine, batches and draws,
one stopped while the other runs, in turns of seconds. docs/benchmarks.md says what is counted and
how.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from blocks import ROOT, Both, Trained, run_recipe, take_turns

RECIPE = ROOT / "jobs" / "sora_debug.yaml"
BUDGET = 1.03
SAVING = 4  # windows after a save that its writing may slow down
SAVE_EVERY = 200  # the default interval, over which a checkpoint's cost is spread
WARM_UP = 5  # windows
PARTS = 5  # of the time, each with a ratio of its own


@dataclass(frozen=True)
class Case:
    """A model and how long it is trained; ``steps`` in twenties."""

    name: str
    train: Mapping[str, Any]  # changes to the stage's train section
    steps: int
    log_every: int  # steps in a window

    @property
    def save_at(self) -> int:
        """The step with a checkpoint, beside the last one."""
        return self.steps // 2


@dataclass(frozen=True)
class Window:
    """Some steps: when they began, how long one took, and whether all lay within one turn."""

    start_s: float
    step_ms: float
    is_whole: bool


@dataclass(frozen=True)
class Result:
    """Windows of both sides that lie within a turn, without those that warm up or save."""

    case: str
    parameters: float
    full: list[Window]
    bare: list[Window]
    save_ms: float  # what one checkpoint adds to the windows after it

    @property
    def ratio(self) -> float:
        """Full step, with its share of a checkpoint, over the bare one: means of all windows."""
        return (_mean_ms(self.full) + self.save_ms / SAVE_EVERY) / _mean_ms(self.bare)

    @property
    def is_within(self) -> bool:
        """Whether that is in the budget."""
        return self.ratio <= BUDGET

    def parts(self) -> list[float]:
        """The same ratio in each part of the time."""
        first_s, last_s = (side(one.start_s for one in self.bare) for side in (min, max))
        part_s = (last_s - first_s) / PARTS
        edges = [(first_s + part * part_s, first_s + (part + 1) * part_s) for part in range(PARTS)]
        return [
            replace(self, full=_between(self.full, *edge), bare=_between(self.bare, *edge)).ratio
            for edge in edges
        ]


CASES = (
    Case(name="debug", train={}, steps=500, log_every=2),
    Case(
        name="30M",
        train={
            "model": {
                "kind": "video_dit",
                "depth": 9,
                "width": 384,
                "heads": 6,
                "patch": [1, 1, 1],
            },
            "batch": 4,
            "micro_batch": 2,
        },
        steps=160,
        log_every=1,
    ),
)


def measure(cases: Sequence[Case], *, folder: Path, workers: int, zero: int) -> list[Result]:
    """Trains every case in both ways."""
    started_s = time.monotonic()
    trees = {case.name: _tree(case, folder=folder, workers=workers, zero=zero) for case in cases}
    prepared = folder / "prepared"
    _say("preparing clips, autoencoder and latents", since=started_s)
    first = trees[cases[0].name]
    run_recipe({**first, "stages": first["stages"][:2]}, run=prepared)
    results: list[Result] = []
    for case in cases:
        _say(f"{case.name}: {case.steps} steps of each, in turns", since=started_s)
        both = take_turns(trees[case.name], prepared=prepared, run=folder / case.name)
        results.append(_counted(case, both))
        _say(f"{case.name}: {results[-1].ratio:.4f}", since=started_s)
    return results


def _tree(case: Case, *, folder: Path, workers: int, zero: int) -> dict[str, Any]:
    """The debug recipe without previews and evaluation, its autoencoder hardly trained."""
    tree = yaml.safe_load(RECIPE.read_text())
    tree["name"] = "overhead"
    tree["runs"] = str(folder)
    tree["tracking"] = {"uri": f"sqlite:///{folder}/mlflow.db"}
    for split in ("train", "eval"):
        tree["data"][split]["uri"] = str(folder / "clips" / split)
    tree["data"]["cache_dir"] = str(folder / "cache")
    autoencoder, encode, dit = tree["stages"][:3]
    autoencoder["train"] |= {"steps": 2}
    autoencoder["compute"] = {"workers": 1, "zero": 0}
    dit["train"] |= {"steps": case.steps, "log_every": case.log_every, **case.train}
    del dit["train"]["preview"]
    dit["compute"] = {"workers": workers, "zero": zero}
    dit["save"] = {"every_steps": case.save_at}
    tree["stages"] = [autoencoder, encode, dit]
    return tree


def _counted(case: Case, both: Both) -> Result:
    full = _windows(case, both.full)
    saving = [case.save_at + case.log_every * number for number in range(SAVING)]
    plain = [one for start, one in full.items() if one.is_whole and start not in saving]
    usual_ms = statistics.median(one.step_ms for one in plain)
    return Result(
        case=case.name,
        parameters=both.parameters,
        full=plain,
        bare=[one for one in _windows(case, both.bare).values() if one.is_whole],
        save_ms=case.log_every * sum(full[start].step_ms - usual_ms for start in saving),
    )


def _windows(case: Case, side: Trained) -> dict[int, Window]:
    """By the step that they start from, but for those that warm up."""
    windows: dict[int, Window] = {}
    for start in range(WARM_UP * case.log_every, case.steps, case.log_every):
        from_s, to_s = side.ends_s[start], side.ends_s[start + case.log_every]
        let_run_s = sum(
            max(0.0, min(to_s, turn_to_s) - max(from_s, turn_from_s))
            for turn_from_s, turn_to_s in side.turns
        )
        windows[start] = Window(
            start_s=from_s,
            step_ms=1000 * let_run_s / case.log_every,
            is_whole=any(turn[0] <= from_s and to_s <= turn[1] for turn in side.turns),
        )
    return windows


def _between(windows: Sequence[Window], from_s: float, to_s: float) -> list[Window]:
    return [one for one in windows if from_s <= one.start_s < to_s]


def _mean_ms(windows: Sequence[Window]) -> float:
    """A mean, so that a stall counts however rare it is."""
    return statistics.fmean(one.step_ms for one in windows)


def table(results: Sequence[Result], *, workers: int) -> str:
    """A Markdown table, with the lowest and the highest ratio of a part of the time."""
    lines = [
        "| model | workers | parameters | windows | bare step | full step | checkpoint "
        f"| ratio | of a fifth of the time | at most {BUDGET} |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in results:
        parts = one.parts()
        lines.append(
            f"| {one.case} | {workers} | {one.parameters / 1e6:.1f}M "
            f"| {len(one.bare)} and {len(one.full)} | {_mean_ms(one.bare):.1f} ms "
            f"| {_mean_ms(one.full):.1f} ms | {one.save_ms:.0f} ms | {one.ratio:.4f} "
            f"| {min(parts):.3f} to {max(parts):.3f} | {'pass' if one.is_within else 'fail'} |"
        )
    return "\n".join(lines)


def _say(text: str, *, since: float) -> None:
    print(f"[{time.monotonic() - since:5.0f} s] {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Measures; exit code 1 if a model is over the budget."""
    parser = argparse.ArgumentParser(description="full stack over a bare loop, step time")
    parser.add_argument("--workers", type=int, choices=(1, 2), default=1)
    parser.add_argument("--zero", type=int, choices=(0, 1, 2, 3), default=1)
    parser.add_argument("--case", choices=[case.name for case in CASES], action="append")
    parser.add_argument("--steps", type=int, help="a multiple of 20, from 100 on")
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    args = parser.parse_args()
    if args.steps is not None and (args.steps < 100 or args.steps % 20):
        parser.error("wanted --steps in multiples of 20, from 100 on")
    cases = [case for case in CASES if args.case is None or case.name in args.case]
    if args.steps is not None:
        cases = [replace(case, steps=args.steps) for case in cases]
    with tempfile.TemporaryDirectory(prefix="rushes-overhead-") as folder:
        results = measure(cases, folder=Path(folder), workers=args.workers, zero=args.zero)
    print(table(results, workers=args.workers))
    if args.out is not None:
        about = {
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "torch": torch.__version__,
            "workers": args.workers,
            "zero": args.zero,
            "budget": BUDGET,
            "save_every_steps": SAVE_EVERY,
            "results": [asdict(one) for one in results],
        }
        args.out.write_text(json.dumps(about, indent=1) + "\n")
    return int(not all(one.is_within for one in results))


if __name__ == "__main__":
    raise SystemExit(main())
