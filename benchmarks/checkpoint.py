"""What a checkpoint costs training: ours, DeepSpeed's, and PyTorch's asynchronous one.

Two ranks train a diffusion transformer of 100 million weights under ZeRO-2 and save in each way in
turn. docs/benchmarks.md says what is counted and how.
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
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from models.sora.dit import VideoDiT
from models.sora.dit_config import DiTConfig
from models.text.states import TextStates
from orchestrator.recipe.train import Optim, Save
from orchestrator.storage.store import open_store
from orchestrator.train.checkpoint.load import load_latest
from orchestrator.train.checkpoint.save import Saver
from orchestrator.train.engine.build import build_engine
from orchestrator.train.engine.zero import ZeroEngine
from orchestrator.train.exchange import gather_json
from orchestrator.train.ownership import Ownership
from orchestrator.train.ranks import Ranks, join

RANKS = 2
CHANNELS, GRID, TEXT_TOKENS, TEXT_WIDTH = 16, (2, 8, 8), 8, 64
CONFIG = DiTConfig(depth=12, width=640, heads=10, patch=(1, 2, 2))
PLAIN_STEPS = 6  # without a save, beside each round
ROUNDS = 4  # after one to warm up, in which buffers are allocated
PREFIX = "stages/dit/checkpoints"
WAYS = ("rushes", "deepspeed", "dcp.async_save")


@dataclass
class Cost:
    """One save: seconds that it blocked, of each step while it was written, and until it was."""

    blocked_s: float
    steps_s: list[float]
    written_s: float


class Trainer:
    """A network in its engine, on one rank, and one step on the same random clips."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        torch.manual_seed(0)
        module = VideoDiT(CONFIG, channels=CHANNELS, text_width=TEXT_WIDTH)
        engine = build_engine(
            module,
            kind="deepspeed",
            zero=2,
            precision="bf16",
            optim=Optim(lr=1e-4),
            accumulation=1,
            ema_decay=0.999,
            device=ranks.device,
        )
        assert isinstance(engine, ZeroEngine)
        self.engine = engine
        self._x = torch.randn(1, CHANNELS, *GRID)
        self._text = TextStates(
            tokens_BLD=torch.randn(1, TEXT_TOKENS, TEXT_WIDTH),
            mask_BL=torch.ones(1, TEXT_TOKENS, dtype=torch.bool),
            pooled_BD=torch.randn(1, TEXT_WIDTH),
        )

    def step(self) -> float:
        """Seconds that a step took."""
        start_s = time.perf_counter()
        found = self.engine(self._x, torch.tensor([0.5]), self._text)
        self.engine.backward((found - self._x).square().mean())
        self.engine.step(lr=1e-4)
        return time.perf_counter() - start_s


class Ways:
    """Each way to save: ``begin`` blocks training, ``is_written`` is asked after each step."""

    def __init__(self, trainer: Trainer, *, folder: Path) -> None:
        self._trainer, self._folder = trainer, folder
        store = open_store(str(folder / "rushes"))
        ownership = Ownership(store, "stages/dit", attempt=1)
        if trainer.ranks.rank == 0:
            ownership.take()
        self._store = store
        self._saver = Saver(
            store,
            PREFIX,
            engines={"dit": trainer.engine},
            ranks=trainer.ranks,
            save=Save(keep=1),
            ownership=ownership,
        )
        self._inner: Any = trainer.engine._engine  # pyright: ignore[reportPrivateUsage]
        self._future: Any = None
        self._step = 0

    def begin(self, way: str) -> Callable[[], bool]:
        """Starts a save; what it gives back says, on every rank, whether all is written."""
        self._step += 1
        match way:
            case "rushes":
                self._saver.begin(step=self._step, extra={})
                return self._saver.poll
            case "deepspeed":
                self._inner.save_checkpoint(str(self._folder / way), tag="t")
                return lambda: True
            case _:
                future = dcp.async_save(self._state(), checkpoint_id=str(self._folder / way))
                return lambda: self._trainer.ranks.all(future.done())

    def load(self, way: str) -> None:
        """Puts what was saved last back into the engine."""
        match way:
            case "rushes":
                load_latest(
                    self._store,
                    PREFIX,
                    engines={"dit": self._trainer.engine},
                    ranks=self._trainer.ranks,
                )
            case "deepspeed":
                self._inner.load_checkpoint(str(self._folder / way), tag="t")
            case _:
                dcp.load(self._state(), checkpoint_id=str(self._folder / way))

    def bytes(self, way: str) -> int:
        """What the last save of this way takes on disk."""
        files = (self._folder / way).rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())

    def _state(self) -> dict[str, torch.Tensor]:
        """The slices that this rank owns, as tensors of their own."""
        return {
            f"{one.name}/{one.start}/{key}": tensor
            for one in self._trainer.engine.fragments()
            for key, tensor in one.tensors.items()
        }


def work(folder: Path) -> None:
    """One rank; rank 0 writes the figures to result.json."""
    torch.set_num_threads(1)
    ranks = join(gpus=0)
    with _quiet():
        trainer = Trainer(ranks)
    ways = Ways(trainer, folder=folder)
    plain: list[float] = []
    costs: dict[str, list[Cost]] = {way: [] for way in WAYS}
    for number in range(ROUNDS + 1):
        for way in WAYS:
            steps = [trainer.step() for _ in range(PLAIN_STEPS)]
            cost = _saved(trainer, ways, way)
            if number:
                plain += steps
                costs[way].append(cost)
                _say(ranks, f"round {number}: {way} blocked {cost.blocked_s:.2f} s")
    loads = {way: statistics.median(_loaded(ways, way) for _ in range(3)) for way in WAYS}
    plain_s = statistics.median(plain)
    result = {
        "parameters": trainer.engine.num_params,
        "step_s": plain_s,
        "ways": {
            way: {
                "blocked_s": statistics.median(one.blocked_s for one in costs[way]),
                "written_s": statistics.median(one.written_s for one in costs[way]),
                "step_ratio": _ratio([s for one in costs[way] for s in one.steps_s], plain_s),
                "load_s": loads[way],
                "bytes": ways.bytes(way),
            }
            for way in WAYS
        },
    }
    slowest = gather_json(result, device=ranks.device)
    for way in WAYS:  # a save blocks as long as it blocks the slowest rank
        for key in ("blocked_s", "written_s", "load_s"):
            result["ways"][way][key] = max(one["ways"][way][key] for one in slowest)
    if ranks.rank == 0:
        (folder / "result.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def _saved(trainer: Trainer, ways: Ways, way: str) -> Cost:
    dist.barrier()
    start_s = time.perf_counter()
    is_written = ways.begin(way)
    blocked_s = time.perf_counter() - start_s
    steps_s: list[float] = []
    while True:
        step_s = trainer.step()
        if is_written():
            return Cost(blocked_s, steps_s, time.perf_counter() - start_s)
        steps_s.append(step_s)


def _loaded(ways: Ways, way: str) -> float:
    dist.barrier()
    start_s = time.perf_counter()
    with _quiet():
        ways.load(way)
    return time.perf_counter() - start_s


def _ratio(steps_s: list[float], plain_s: float) -> float | None:
    return statistics.median(steps_s) / plain_s if steps_s else None


@contextmanager
def _quiet() -> Iterator[None]:
    """DeepSpeed prints what it does, past every logger."""
    saved = os.dup(1)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(saved, 1)
            os.close(saved)


def _say(ranks: Ranks, text: str) -> None:
    if ranks.rank == 0:
        print(text, file=sys.stderr, flush=True)


def _launch(folder: Path) -> dict[str, Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--folder", str(folder)],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(RANKS),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(RANKS)
    ]
    if any([process.wait() for process in processes]):
        raise SystemExit("a rank failed")
    return json.loads((folder / "result.json").read_text())


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # set for ranks
    folder = parser.parse_args().folder
    if folder is not None:
        work(folder)
        return
    scratch = Path(tempfile.mkdtemp(prefix="rushes-checkpoint-"))
    try:
        result = _launch(scratch)
    finally:
        shutil.rmtree(scratch)
    ours = result["ways"]["rushes"]
    print(
        f"{result['parameters'] / 1e6:.0f} million weights, {RANKS} ranks, ZeRO-2, bf16, a step "
        f"takes {result['step_s']:.2f} s; {platform.machine()}, {os.cpu_count()} cores\n"
    )
    print("| way | blocked, s | ours over it | step meanwhile | written, s | load, s | MiB |")
    print("|---|---|---|---|---|---|---|")
    for way, one in result["ways"].items():
        ratio = "-" if one["step_ratio"] is None else f"{one['step_ratio']:.2f}"
        print(
            f"| {way} | {one['blocked_s']:.3f} | {ours['blocked_s'] / one['blocked_s']:.3f} | "
            f"{ratio} | {one['written_s']:.1f} | {one['load_s']:.2f} | {one['bytes'] / 2**20:.0f} |"
        )


if __name__ == "__main__":
    main()
