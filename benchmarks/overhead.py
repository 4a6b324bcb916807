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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from blocks import ROOT, bare_block, full_block, run_recipe

RECIPE = ROOT / "jobs" / "sora_debug.yaml"
BUDGET = 1.03
LOG_EVERY = 10
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
    """A full block and the bare block beside it."""

    case: str
    full_ms: float  # a step, with logging and without saving
    bare_ms: float
    save_ms: float  # one checkpoint
    ratio: float  # (full_ms + save_ms / SAVE_EVERY) / bare_ms


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
            results.append(_compare(case, full_s=ends["full"], bare_s=ends["bare"]))
            _say(f"{case.name} pair {number + 1}: {results[-1].ratio:.4f}", since=started_s)
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
    """Step times over the same steps: all windows but the first one and the one with the save."""
    starts = range(LOG_EVERY, case.steps, LOG_EVERY)
    plain = [start for start in starts if start != case.save_at]
    full, bare = _window_s(full_s, plain), _window_s(bare_s, plain)
    steps = len(plain) * LOG_EVERY
    # The save falls between the log of its step and the next one.
    saving = _window_s(full_s, [case.save_at])
    save = saving - _window_s(bare_s, [case.save_at]) * full / bare
    return Pair(
        case=case.name,
        full_ms=1000 * full / steps,
        bare_ms=1000 * bare / steps,
        save_ms=1000 * save,
        ratio=(full / steps + save / SAVE_EVERY) / (bare / steps),
    )


def _window_s(ends_s: Mapping[int, float], starts: Iterable[int]) -> float:
    return sum(ends_s[start + LOG_EVERY] - ends_s[start] for start in starts)


def table(pairs: Sequence[Pair], *, parameters: Mapping[str, float], workers: int) -> str:
    """A Markdown table: medians over the pairs, and the spread of the ratio."""
    lines = [
        "| model | workers | parameters | pairs | bare step | full step | checkpoint "
        f"| ratio, median | lowest to highest | at most {BUDGET} |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, count in parameters.items():
        own = [pair for pair in pairs if pair.case == name]
        ratios = [pair.ratio for pair in own]
        bare, full, save = (
            statistics.median(getattr(pair, field) for pair in own)
            for field in ("bare_ms", "full_ms", "save_ms")
        )
        lines.append(
            f"| {name} | {workers} | {count / 1e6:.1f}M | {len(own)} | {bare:.1f} ms "
            f"| {full:.1f} ms | {save:.0f} ms | {statistics.median(ratios):.4f} "
            f"| {min(ratios):.4f} to {max(ratios):.4f} | {_verdict(ratios)} |"
        )
    return "\n".join(lines)


def _verdict(ratios: Sequence[float]) -> str:
    return "pass" if statistics.median(ratios) <= BUDGET else "fail"


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
    ratios = [[pair.ratio for pair in pairs if pair.case == name] for name in parameters]
    return int(any(_verdict(own) == "fail" for own in ratios))


if __name__ == "__main__":
    raise SystemExit(main())
