"""What a checkpoint costs training: ours, DeepSpeed's, and PyTorch's asynchronous one.

Ranks train a diffusion transformer of 100 million weights and save in each way in turn.
docs/benchmarks.md says what is counted and how.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from savers import WAYS, Round, measure

RANKS = {"cpu": 2, "cuda": 1}
MODELS = {"cpu": "100M", "cuda": "1B"}
BUDGETS = {"deepspeed": 0.1, "dcp": 1.0}  # of what theirs blocks
STEP_BUDGET = 1.1  # of an undisturbed step
MIB = 2**20


def launch(args: argparse.Namespace, *, folder: Path) -> dict[str, Any]:
    """Runs the ranks; what rank 0 has written of all of them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = RANKS[args.device]
    processes = [
        subprocess.Popen(
            [sys.executable, *sys.argv, "--folder", str(folder)],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(ranks)
    ]
    if any([process.wait() for process in processes]):
        raise SystemExit("benchmarks/checkpoint.py: a rank failed")
    return json.loads((folder / "result.json").read_text())


def table(result: dict[str, Any]) -> str:
    """A Markdown table, a row per way, and which budget each keeps."""
    rounds = {way: [Round(**one) for one in found] for way, found in result["rounds"].items()}
    ours_s = _median([one.blocked_s for one in rounds["rushes"]])
    lines = [
        "| way | blocked, median | lowest to highest | ours / theirs | at most "
        f"| steps meanwhile | at most {STEP_BUDGET} | written after | load | bytes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for way, found in rounds.items():
        blocked_s = [one.blocked_s for one in found]
        ratio = ours_s / _median(blocked_s)
        steps = [one.step_ratio for one in found if one.step_ratio is not None]
        lines.append(
            f"| {way} | {_median(blocked_s):.3f} s "
            f"| {min(blocked_s):.3f} to {max(blocked_s):.3f} s "
            f"| {f'{ratio:.3f}' if way != 'rushes' else '-'} | {_verdict(ratio, BUDGETS.get(way))} "
            f"| {_ratios(steps)} "
            f"| {_verdict(_median(steps), STEP_BUDGET) if steps and way == 'rushes' else '-'} "
            f"| {_median([one.written_s for one in found]):.1f} s "
            f"| {_median(result['loads_s'][way]):.2f} s | {result['bytes'][way] / MIB:.0f} MiB |"
        )
    return "\n".join(lines)


def _ratios(steps: Sequence[float]) -> str:
    if not steps:
        return "-"
    return f"{_median(steps):.2f} ({min(steps):.2f} to {max(steps):.2f})"


def _verdict(ratio: float, budget: float | None) -> str:
    if budget is None:
        return "-"
    return f"{budget}: {'pass' if ratio <= budget else 'fail'}"


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def main() -> int:
    """Measures and prints; exit code 1 if a budget is missed."""
    parser = argparse.ArgumentParser(description="what a checkpoint costs training")
    parser.add_argument("--device", choices=list(RANKS), default="cpu")
    parser.add_argument("--model", choices=("10M", "100M", "1B"))
    parser.add_argument("--rounds", type=int, default=5, help="saves in each way")
    parser.add_argument("--ways", choices=WAYS, action="append")
    parser.add_argument("--at", type=Path, help="where checkpoints go; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # set for a rank
    args = parser.parse_args()
    model = args.model or MODELS[args.device]
    if args.folder is not None:
        measure(
            device=args.device,
            model=model,
            rounds=args.rounds,
            ways=args.ways,
            folder=args.folder,
        )
        return 0
    scratch = Path(tempfile.mkdtemp(prefix="rushes-checkpoint-", dir=args.at))
    try:
        result = launch(args, folder=scratch)
    finally:
        shutil.rmtree(scratch)
    print(
        f"{result['parameters'] / 1e6:.1f}M weights, {RANKS[args.device]} rank(s), "
        f"{result['engine']}, a step takes {1000 * result['step_s']:.0f} ms; the first save "
        f"blocked {result['first_s']['rushes']:.3f} s; {platform.machine()}, {os.cpu_count()} "
        f"cores, torch {torch.__version__}\n"
    )
    print(table(result))
    if args.out is not None:
        about = {"machine": platform.platform(), "torch": torch.__version__}
        args.out.write_text(json.dumps(about | result, indent=1) + "\n")
    return int("fail" in table(result))


if __name__ == "__main__":
    raise SystemExit(main())
