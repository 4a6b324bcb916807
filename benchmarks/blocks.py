"""A stage trained by the full stack and by the bare loop, in turns; for overhead.py."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from orchestrator.cascade.worker_env import LOOPBACK, worker_env
from orchestrator.launch.places import with_absolute_uris
from orchestrator.recipe.load import parse_recipe
from orchestrator.train.job import StageJob

ROOT = Path(__file__).resolve().parent.parent
STAGE = "dit"
TURN_S = 6.0
POLL_S = 0.05
Running = subprocess.Popen[bytes]


Span = tuple[float, float]  # seconds since the epoch


@dataclass(frozen=True)
class Trained:
    """When logged steps of one side ended, and its turns."""

    ends_s: dict[int, float]
    turns: list[Span]


@dataclass(frozen=True)
class Both:
    """A model trained in both ways."""

    full: Trained
    bare: Trained
    parameters: float


@dataclass
class _Side:
    """Processes with all that they have started, stopped and let run together."""

    roots: list[Running]
    log: Path
    turns: list[Span] = field(default_factory=list[Span])
    _paused: list[psutil.Process] = field(default_factory=list[psutil.Process])

    def pause(self) -> None:
        trees = [psutil.Process(root.pid) for root in self.roots if root.poll() is None]
        self._paused = [one for tree in trees for one in (tree, *tree.children(recursive=True))]
        self._signal("suspend")

    def resume(self) -> None:
        self._signal("resume")

    def end(self) -> None:
        """Ends what still runs, or stands still."""
        self._signal("resume")
        for root in self.roots:
            if root.poll() is None:
                root.terminate()
                psutil.Process(root.pid).resume()
                root.wait()

    def has_ended(self) -> bool:
        """Whether a process has; with the tail of the log if one has failed."""
        codes = [root.poll() for root in self.roots]
        if any(codes):
            tail = "\n".join(self.log.read_text().splitlines()[-30:])
            raise SystemExit(f"{self.roots[0].args} ended with {codes}:\n{tail}")
        return any(code is not None for code in codes)

    def _signal(self, name: str) -> None:
        for process in self._paused:
            with suppress(psutil.NoSuchProcess):
                getattr(process, name)()


def take_turns(tree: Mapping[str, Any], *, prepared: Path, run: Path) -> Both:
    """Trains a stage in both ways; one is stopped while the other runs."""
    shutil.copytree(prepared / "stages", run / "stages")
    outs, bare = _start_bare(tree, prepared=prepared, run=run)
    full = None
    try:
        _wait(
            bare, lambda: all(psutil.Process(one.pid).status() == "stopped" for one in bare.roots)
        )
        full = _start_full(tree, run=run)
        log = full.log
        _wait(full, lambda: f"{STAGE}  running" in log.read_text())
        _alternate(full, bare)
        for side in (full, bare):
            _wait(side, lambda side=side: all(one.poll() is not None for one in side.roots))
    finally:
        for side in [bare, *([full] if full else [])]:
            side.end()
    assert full is not None
    lines = (run / "stages" / STAGE / "metrics.jsonl").read_text().splitlines()
    full_s = {line["step"]: line["time_ms"] / 1000.0 for line in map(json.loads, lines)}
    bare_s = json.loads(outs[0].read_text())
    parameters = bare_s.pop("parameters")
    return Both(
        full=Trained(ends_s=full_s, turns=full.turns),
        bare=Trained(ends_s={int(step): end_s for step, end_s in bare_s.items()}, turns=bare.turns),
        parameters=parameters,
    )


def _alternate(full: _Side, bare: _Side) -> None:
    """Until one of them ends; both run then. ``bare`` has stopped itself."""
    bare.pause()
    active, waiting = full, bare
    while not active.has_ended():
        from_s, until_s = time.time(), time.monotonic() + TURN_S
        while time.monotonic() < until_s and not active.has_ended():
            time.sleep(POLL_S)
        active.turns.append((from_s, time.time()))
        active.pause()
        waiting.resume()
        active, waiting = waiting, active
    waiting.resume()


def _wait(side: _Side, is_there: Callable[[], bool]) -> None:
    """Until it is, or a process of the side fails."""
    while not is_there():
        side.has_ended()
        time.sleep(POLL_S)


def run_recipe(tree: Mapping[str, Any], *, run: Path) -> None:
    """`rushes train --local` to its end."""
    side = _start_full(tree, run=run, options=["--local"])
    _wait(side, lambda: side.roots[0].poll() is not None)
    side.has_ended()


def _start_full(tree: Mapping[str, Any], *, run: Path, options: Sequence[str] = ()) -> _Side:
    recipe = run.parent / f"{run.name}.yaml"
    recipe.write_text(yaml.safe_dump(dict(tree)))
    command = [sys.executable, "-m", "orchestrator", "train", str(recipe), "--run", str(run)]
    return _start([[*command, *options]], env=[{}], log=recipe.with_suffix(".log"))


def _start_bare(tree: Mapping[str, Any], *, prepared: Path, run: Path) -> tuple[list[Path], _Side]:
    recipe = with_absolute_uris(parse_recipe(dict(tree), origin="overhead"))
    job = StageJob(recipe=recipe, stage=STAGE, run=str(prepared), attempt=1)
    path = run.parent / f"{run.name}.json"
    path.write_text(job.model_dump_json())
    ranks = job.spec.compute.ranks
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), **LOOPBACK}
    outs = [run.parent / f"{run.name}.{rank}.ends" for rank in range(ranks)]
    side = _start(
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
    return outs, side


def _start(commands: Sequence[list[str]], *, env: Sequence[Mapping[str, str]], log: Path) -> _Side:
    with log.open("w") as file:
        roots = [
            subprocess.Popen(command, env={**os.environ, **own}, cwd=ROOT, stdout=file, stderr=file)
            for command, own in zip(commands, env, strict=True)
        ]
    return _Side(roots=roots, log=log)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
