"""What the full stack costs: its step time over that of a bare PyTorch loop.

Both train the ``dit`` stage of jobs/sora_debug.yaml with the same task, engine, batches and draws,
in blocks that alternate. docs/benchmarks.md says what is counted and how.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from blocks import ROOT, bare_block, full_block, run_recipe

RECIPE = ROOT / "jobs" / "sora_debug.yaml"
BUDGET = 1.03
LOG_EVERY = 5  # steps in a window
SAVING = 2  # windows after a save that its writing may slow down
SAVE_EVERY = 200  # the default interval, over which a checkpoint's cost is spread
MIN_PAIRS = 2


@dataclass(frozen=True)
class Case:
    """A model and how long a block of it is; ``steps`` and ``save_at`` in tens."""

    name: str
    train: Mapping[str, Any]  # changes to the stage's train section
    steps: int
    save_at: int


@dataclass(frozen=True)
class Pair:
    """A full block and the bare block beside it, without the windows that warm up or save."""

    case: str
    full_ms: list[float]  # mean step of each window
    bare_ms: list[float]
    save_ms: float  # what one checkpoint adds to the windows after it


CASES = (
    Case(name="debug", train={}, steps=60, save_at=30),
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
        steps=40,
        save_at=20,
    ),
)


def measure(
    cases: Sequence[Case], *, folder: Path, workers: int, zero: int, pairs: int, limit_s: float
) -> tuple[list[Pair], dict[str, float]]:
    """Alternates full and bare blocks; returns what each pair took, and parameter counts.

    A round of all cases starts only if it would end before ``limit_s``, but for the first two.
    """
    started_s = time.monotonic()
    trees = {case.name: _tree(case, folder=folder, workers=workers, zero=zero) for case in cases}
    prepared = folder / "prepared"
    _say("preparing clips, autoencoder and latents", since=started_s)
    first = trees[cases[0].name]
    run_recipe({**first, "stages": first["stages"][:2]}, run=prepared, local=True)
    results: list[Pair] = []
    parameters: dict[str, float] = {}
    longest_s = 0.0
    for number in range(pairs):
        round_s = time.monotonic()
        if number >= MIN_PAIRS and round_s - started_s + longest_s > limit_s:
            _say(f"stopping after {number} of {pairs} pairs: {limit_s:.0f} s", since=started_s)
            break
        for case in cases:
            tree = trees[case.name]
            run = folder / f"{case.name}-{number}"
            # Every second pair begins with the bare loop: a machine that slows down favours none.
            order = ("full", "bare") if number % 2 == 0 else ("bare", "full")
            ends: dict[str, dict[int, float]] = {}
            for kind in order:
                where = f"{case.name} pair {number + 1}/{pairs}: {kind} loop"
                _say(f"{where}, {case.steps} steps", since=started_s)
                if kind == "full":
                    ends[kind] = full_block(tree, prepared=prepared, run=run)
                else:
                    ends[kind], parameters[case.name] = bare_block(tree, prepared=prepared, run=run)
            shutil.rmtree(run)
            pair = _compare(case, full_s=ends["full"], bare_s=ends["bare"])
            results.append(pair)
            _say(f"{case.name} pair {number + 1}: {Result.of([pair]).ratio:.4f}", since=started_s)
        longest_s = max(longest_s, time.monotonic() - round_s)
    return results, parameters


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
    dit["train"] |= {"steps": case.steps, "log_every": LOG_EVERY, **case.train}
    del dit["train"]["preview"]
    dit["compute"] = {"workers": workers, "zero": zero}
    dit["save"] = {"every_steps": case.save_at}
    tree["stages"] = [autoencoder, encode, dit]
    return tree


def _compare(case: Case, *, full_s: Mapping[int, float], bare_s: Mapping[int, float]) -> Pair:
    """Windows of both blocks at the same steps; the first two warm up."""
    starts = range(2 * LOG_EVERY, case.steps, LOG_EVERY)
    saving = range(case.save_at, case.save_at + SAVING * LOG_EVERY, LOG_EVERY)
    plain = [start for start in starts if start not in saving]
    full = [_window_ms(full_s, start) for start in plain]
    usual_ms = statistics.median(full)
    return Pair(
        case=case.name,
        full_ms=full,
        bare_ms=[_window_ms(bare_s, start) for start in plain],
        save_ms=LOG_EVERY * sum(_window_ms(full_s, start) - usual_ms for start in saving),
    )


def _window_ms(ends_s: Mapping[int, float], start: int) -> float:
    return 1000 * (ends_s[start + LOG_EVERY] - ends_s[start]) / LOG_EVERY


@dataclass(frozen=True)
class Result:
    """Both sides over some pairs: means, so that a stall counts however rare it is."""

    full_ms: float
    bare_ms: float
    save_ms: float

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> "Result":
        """Pools the windows of all pairs."""
        return cls(
            full_ms=statistics.fmean(one for pair in pairs for one in pair.full_ms),
            bare_ms=statistics.fmean(one for pair in pairs for one in pair.bare_ms),
            save_ms=statistics.fmean(pair.save_ms for pair in pairs),
        )

    @property
    def ratio(self) -> float:
        """Full step, with its share of a checkpoint, over the bare one."""
        return (self.full_ms + self.save_ms / SAVE_EVERY) / self.bare_ms


def table(pairs: Sequence[Pair], *, parameters: Mapping[str, float], workers: int) -> str:
    """A Markdown table, with the lowest and the highest ratio of a pair alone."""
    lines = [
        "| model | workers | parameters | pairs | bare step | full step | checkpoint "
        f"| ratio | of one pair | at most {BUDGET} |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, count in parameters.items():
        own = [pair for pair in pairs if pair.case == name]
        alone = [Result.of([pair]).ratio for pair in own]
        result = Result.of(own)
        lines.append(
            f"| {name} | {workers} | {count / 1e6:.1f}M | {len(own)} | {result.bare_ms:.1f} ms "
            f"| {result.full_ms:.1f} ms | {result.save_ms:.0f} ms | {result.ratio:.4f} "
            f"| {min(alone):.3f} to {max(alone):.3f} | {_verdict(own)} |"
        )
    return "\n".join(lines)


def _verdict(pairs: Sequence[Pair]) -> str:
    return "pass" if Result.of(pairs).ratio <= BUDGET else "fail"


def _say(text: str, *, since: float) -> None:
    print(f"[{time.monotonic() - since:5.0f} s] {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Measures; exit code 1 if a model is over the budget."""
    parser = argparse.ArgumentParser(description="full stack over a bare loop, step time")
    parser.add_argument("--workers", type=int, choices=(1, 2), default=1)
    parser.add_argument("--zero", type=int, choices=(0, 1, 2, 3), default=1)
    parser.add_argument("--pairs", type=int, default=5, help="blocks of each kind and model")
    parser.add_argument(
        "--limit-s", type=float, default=480.0, help="start no round that ends later"
    )
    parser.add_argument("--case", choices=[case.name for case in CASES], action="append")
    parser.add_argument("--steps", type=int, help="steps of a block, a multiple of 20 from 40 on")
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    args = parser.parse_args()
    if args.pairs < 1 or (args.steps is not None and (args.steps < 40 or args.steps % 20)):
        parser.error("wanted --pairs of at least 1 and --steps in multiples of 20, from 40 on")
    cases = [case for case in CASES if args.case is None or case.name in args.case]
    if args.steps is not None:
        cases = [
            Case(name=c.name, train=c.train, steps=args.steps, save_at=args.steps // 2)
            for c in cases
        ]
    with tempfile.TemporaryDirectory(prefix="rushes-overhead-") as folder:
        pairs, parameters = measure(
            cases,
            folder=Path(folder),
            workers=args.workers,
            zero=args.zero,
            pairs=args.pairs,
            limit_s=args.limit_s,
        )
    print(table(pairs, parameters=parameters, workers=args.workers))
    if args.out is not None:
        about = {
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "torch": torch.__version__,
            "workers": args.workers,
            "zero": args.zero,
            "budget": BUDGET,
            "save_every_steps": SAVE_EVERY,
            "parameters": parameters,
            "pairs": [asdict(pair) for pair in pairs],
        }
        args.out.write_text(json.dumps(about, indent=1) + "\n")
    by_case = [[pair for pair in pairs if pair.case == name] for name in parameters]
    return int(any(_verdict(own) == "fail" for own in by_case))


if __name__ == "__main__":
    raise SystemExit(main())
