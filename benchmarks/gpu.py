"""Training step of the XL and 2B presets in bf16 on one GPU: memory, time, model FLOP/s.

Every row is a process of its own that runs the worker of `rushes train --local` (plain engine, no
Ray) on shards of random latents and made-up captions. docs/benchmarks.md says what is counted.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orchestrator.data.decode import npy_bytes
from orchestrator.data.index import write_index
from orchestrator.data.shards import NewSample, shard_name, write_shard
from orchestrator.recipe.load import parse_recipe
from orchestrator.storage.store import open_store
from orchestrator.train.hooks import NeverPaused
from orchestrator.train.job import StageJob
from orchestrator.train.latents import latents_uri
from orchestrator.train.worker import run

# Dense bf16 peak without sparsity, NVIDIA's data sheets of the H100 SXM5 and the H200 SXM.
PEAK_TFLOPS = {"NVIDIA H100 80GB HBM3": 989.4, "NVIDIA H200": 989.4}

CHANNELS = 16
GRID = (9, 32, 32)  # latent frames, height, width: 2304 tokens at patch 1, 2, 2
CLIP = (33, 256, 256)  # what the default autoencoder makes that grid of
CLIPS = 64
LOG_EVERY = 5
WARMUP_WINDOWS = 3  # compiling, once more per caption length, and the allocator's growth
WINDOWS = 5
BATCHES = {"XL": 8, "2B": 4}
OUT_OF_MEMORY = "out of memory"
CAPTIONS = (
    "a red three moving left",
    "the digit seven, green, goes up",
    "a white five drifting right",
    "the digit nine, shown in blue",
)


class _MeasuredError(Exception):
    """Ends the worker before it would save: nobody wants these weights."""


@dataclass
class Meter(NeverPaused):
    """Hooks that time the windows between logged steps and stop after the last one."""

    ends_s: list[float] = field(default_factory=list[float])
    values: dict[str, float] = field(default_factory=dict[str, float])

    def event(self, event: dict[str, Any]) -> None:
        """Takes the time of logged steps; the worker has read its loss from the GPU by then."""
        if event["kind"] != "metrics":
            return
        torch.cuda.synchronize()
        self.ends_s.append(time.perf_counter())
        self.values = event["values"]
        if len(self.ends_s) == WARMUP_WINDOWS + WINDOWS:
            raise _MeasuredError

    def should_stop(self) -> bool:
        """Never: a stop saves."""
        return False


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """One row, in this process.

    Args:
        spec: ``preset``, ``compile``, ``checkpointing``, ``batch``.

    Returns:
        The spec with ``step_ms``, ``spread_ms`` (lowest and highest window), ``peak_gib``,
        ``model_tflops`` and ``utilisation`` (null on a GPU of unknown peak), or with ``error``.
    """
    meter = Meter()
    with tempfile.TemporaryDirectory(prefix="rushes-gpu-") as folder:
        job = _job(spec, folder=Path(folder))
        _write_latents(job)
        try:
            run(job, hooks=meter)
        except _MeasuredError:
            pass
        except torch.cuda.OutOfMemoryError:
            return {**spec, "error": OUT_OF_MEMORY}
    ends_s = meter.ends_s[WARMUP_WINDOWS - 1 :]
    steps_s = [(end - start) / LOG_EVERY for start, end in pairwise(ends_s)]
    step_s = statistics.median(steps_s)
    flops_per_clip = meter.values["model_tflops"] / meter.values["clips_per_s"]
    tflops = flops_per_clip * spec["batch"] / step_s
    peak = PEAK_TFLOPS.get(torch.cuda.get_device_name())
    return {
        **spec,
        "step_ms": 1000 * step_s,
        "spread_ms": [1000 * min(steps_s), 1000 * max(steps_s)],
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "model_tflops": tflops,
        "utilisation": None if peak is None else tflops / peak,
    }


def _job(spec: dict[str, Any], *, folder: Path) -> StageJob:
    frames, *size = CLIP
    clip = {"frames": frames, "size": size}
    tree = {
        "version": 1,
        "name": "gpu",
        "runs": str(folder),
        "data": {
            "train": {"uri": str(folder / "clips")},
            "eval": {"uri": str(folder / "clips")},
            "cache_dir": str(folder / "cache"),
        },
        "stages": [
            {
                "id": "autoencoder",
                "train": {
                    "model": {"kind": "video_autoencoder", "latent_channels": CHANNELS},
                    "objective": {"kind": "autoencoder"},
                    "clip": clip,
                    "steps": 1,
                    "batch": 1,
                    "micro_batch": 1,
                    "optim": {"lr": 1e-4},
                },
            },
            {"id": "encode", "encode": {"autoencoder": "autoencoder"}},
            {
                "id": "dit",
                "latents": "encode",
                "train": {
                    "model": {"kind": "video_dit", "preset": spec["preset"], "patch": [1, 2, 2]},
                    "objective": {"kind": "flow"},
                    "clip": clip,
                    "steps": 1_000_000,
                    "batch": spec["batch"],
                    "micro_batch": spec["batch"],
                    "optim": {"lr": 1e-4, "warmup_steps": 1000},
                    "precision": "bf16",
                    "checkpointing": spec["checkpointing"],
                    "compile": spec["compile"],
                    "caption_drop": 0.1,
                    "log_every": LOG_EVERY,
                },
                "compute": {"workers": 0, "gpus_per_worker": 1, "cpus_per_worker": 4},
                "save": {"every_steps": 1_000_000},
            },
        ],
    }
    recipe = parse_recipe(tree, origin="benchmarks/gpu.py")
    return StageJob(recipe=recipe, stage="dit", run=str(folder / "run"), attempt=1)


def _write_latents(job: StageJob) -> None:
    """What an encode stage would leave: unit-variance latents and a caption each."""
    generator = np.random.default_rng(0)
    store = open_store(latents_uri(job.run, stage="encode"))
    samples = [
        NewSample(
            key=f"clip-{number:03d}",
            members={
                "latent.npy": npy_bytes(generator.standard_normal((CHANNELS, *GRID), np.float32))
            },
            bucket=CLIP,
            fps=8.0,
            source="random",
            captions=(CAPTIONS[number % len(CAPTIONS)],),
            labels={},
        )
        for number in range(CLIPS)
    ]
    written = write_shard(store, shard_name(0), samples)
    write_index(store, [written], origin={"random": CLIPS})


def _in_a_process(spec: dict[str, Any]) -> dict[str, Any]:
    """Runs ``measure`` in a fresh process, so that no row sees another's memory or compiler."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(spec)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        print("\n".join(lines[-20:]), file=sys.stderr)
        return {**spec, "error": lines[-1]}
    return json.loads(done.stdout.splitlines()[-1])


TABLE_HEAD = (
    "| preset | batch | compile | checkpointing | peak memory | step, median | lowest to "
    "highest | model FLOP/s | utilisation |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def table_row(row: dict[str, Any]) -> str:
    """A measurement as a row of a Markdown table."""
    switches = (
        f"| {row['preset']} | {row['batch']} | {'on' if row['compile'] else 'off'} "
        f"| {'on' if row['checkpointing'] else 'off'}"
    )
    if "error" in row:
        return f"{switches} | {row['error']} | - | - | - | - |"
    low, high = row["spread_ms"]
    share = row["utilisation"]
    return (
        f"{switches} | {row['peak_gib']:.1f} GiB | {row['step_ms']:.0f} ms "
        f"| {low:.0f} to {high:.0f} ms | {row['model_tflops']:.0f} TFLOP/s "
        f"| {'unknown peak' if share is None else f'{share:.1%}'} |"
    )


def main() -> int:
    """Measures the grid of switches; exit code 1 if a row failed, 2 if there is no GPU."""
    parser = argparse.ArgumentParser(description="training step of the big presets on one GPU")
    parser.add_argument("--preset", choices=list(BATCHES), action="append")
    parser.add_argument("--batch", type=int, help="clips per step; default: 8 for XL, 4 for 2B")
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: no CUDA device seen, wanted one", file=sys.stderr)
        return 2
    if args.one is not None:
        print(json.dumps(measure(args.one)))
        return 0
    rows: list[dict[str, Any]] = []
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(TABLE_HEAD, flush=True)
    for preset in args.preset or list(BATCHES):
        for checkpointing in (False, True):
            for compiled in (False, True):
                spec = {
                    "preset": preset,
                    "batch": args.batch or BATCHES[preset],
                    "compile": compiled,
                    "checkpointing": checkpointing,
                }
                rows.append(_in_a_process(spec))
                print(table_row(rows[-1]), flush=True)
    if args.out is not None:
        about = {
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "machine": platform.platform(),
            "grid": GRID,
            "rows": rows,
        }
        args.out.write_text(json.dumps(about, indent=1) + "\n")
    return int(any(row.get("error", OUT_OF_MEMORY) != OUT_OF_MEMORY for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
