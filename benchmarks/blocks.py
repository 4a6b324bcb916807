"""Blocks of overhead.py: a stage trained by the full stack, and by the bare loop."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestrator.cascade.worker_env import LOOPBACK, worker_env
from orchestrator.launch.places import with_absolute_uris
from orchestrator.recipe.load import parse_recipe
from orchestrator.train.job import StageJob

ROOT = Path(__file__).resolve().parent.parent
STAGE = "dit"


def full_block(tree: Mapping[str, Any], *, prepared: Path, run: Path) -> dict[int, float]:
    """Ends of the logged steps of `rushes train`, in seconds since the epoch."""
    shutil.copytree(prepared / "stages", run / "stages")
    run_recipe(tree, run=run, local=False)
    lines = (run / "stages" / STAGE / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["time_ms"] / 1000.0 for line in map(json.loads, lines)}


def run_recipe(tree: Mapping[str, Any], *, run: Path, local: bool) -> None:
    recipe = run.parent / f"{run.name}.yaml"
    recipe.write_text(yaml.safe_dump(dict(tree)))
    command = [sys.executable, "-m", "orchestrator", "train", str(recipe), "--run", str(run)]
    _call([command + (["--local"] if local else [])], env=[{}], log=recipe.with_suffix(".log"))


def bare_block(
    tree: Mapping[str, Any], *, prepared: Path, run: Path
) -> tuple[dict[int, float], float]:
    """Ends of the same steps in the bare loop, and the model's parameters."""
    recipe = with_absolute_uris(parse_recipe(dict(tree), origin="overhead"))
    job = StageJob(recipe=recipe, stage=STAGE, run=str(prepared), attempt=1)
    path = run.parent / f"{run.name}.json"
    path.write_text(job.model_dump_json())
    ranks = job.spec.compute.ranks
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), **LOOPBACK}
    outs = [run.parent / f"{run.name}.{rank}.ends" for rank in range(ranks)]
    _call(
        [[sys.executable, str(ROOT / "benchmarks/bare.py"), str(path), str(out)] for out in outs],
        env=[
            {
                **worker_env(job.spec),
                **(group if ranks > 1 else {}),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
            }
            for rank in range(ranks)
        ],
        log=run.parent / f"{run.name}.bare.log",
    )
    ends = json.loads(outs[0].read_text())
    parameters = ends.pop("parameters")
    return {int(step): end_s for step, end_s in ends.items()}, parameters


def _call(commands: Sequence[list[str]], *, env: Sequence[Mapping[str, str]], log: Path) -> None:
    """Runs processes side by side to their end; all end, with the tail of the log, if one fails."""
    with log.open("w") as file:
        running = [
            subprocess.Popen(command, env={**os.environ, **own}, cwd=ROOT, stdout=file, stderr=file)
            for command, own in zip(commands, env, strict=True)
        ]
        try:
            while True:
                codes = [process.poll() for process in running]
                if any(codes) or None not in codes:
                    break
                time.sleep(0.2)
        finally:
            for process in running:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
    if any(codes):
        tail = "\n".join(log.read_text().splitlines()[-30:])
        raise SystemExit(f"{' '.join(commands[0])}\nended with {codes}:\n{tail}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
