"""One rank of plan_order.py: stages in several layouts, of which it takes a step when it is told.

Beside them, what a row of the plan's table of GPUs says, of a core of this machine.
"""

import multiprocessing
import os
import socket
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from savers import silent
from torch import nn

from models.config import RGB
from orchestrator.plan.timing import PAGE_BYTES
from orchestrator.recipe.load import load_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.recipe.train import Optim
from orchestrator.storage.store import open_store
from orchestrator.train.engine.base import Engine
from orchestrator.train.engine.blocks import apply_memory_and_speed
from orchestrator.train.engine.build import build_engine
from orchestrator.train.engines import build_engines
from orchestrator.train.loopback import LOOPBACK
from orchestrator.train.randomness import SlotRandom
from orchestrator.train.ranks import Ranks, join
from orchestrator.train.tasks.base import Micro
from orchestrator.train.tasks.build import build_task

LIMIT_S = 300.0
CAPTION = "a red three moving left, then a blue seven moving up, and so on."
MATRIX = 1024  # rows and columns: 4 MiB
STREAMED = 16 * 2**20  # float32 values, more than caches hold
SENT = 8 * 2**20  # float32 values of one all-reduce
LAYERS, WIDTH = 40, 72  # so small that nearly all of a pass is Python, each above what stays whole
TRIES = 3


@dataclass(frozen=True)
class Took:
    """Seconds of one optimizer step.

    Attributes:
        passes: forward and backward.
        step: all of it.
        busy_passes: of a processor, forward and backward, gloo's threads too.
        busy: of a processor, all of it.
    """

    passes: float
    step: float
    busy_passes: float
    busy: float


class Gang:
    """Processes of one thread each, in one gloo group; one alone is in none.

    Args:
        ranks: how many.
    """

    def __init__(self, *, ranks: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        for rank in range(ranks):
            ours, theirs = context.Pipe()
            arguments = (theirs, rank, ranks, port)
            context.Process(target=_serve, args=arguments, daemon=True).start()
            theirs.close()
            self._pipes.append(ours)

    def ask(self, what: str, *arguments: Any) -> list[Any]:
        """Every rank's answer; ends the script where one fails."""
        for pipe in self._pipes:
            pipe.send((what, arguments))
        return [self._answer(pipe) for pipe in self._pipes]

    def _answer(self, pipe: Connection) -> Any:
        if not pipe.poll(LIMIT_S):
            raise SystemExit(f"a rank gave no answer in {LIMIT_S:g} s")
        problem, answer = pipe.recv()
        if problem is not None:
            raise SystemExit(problem)
        return answer


class Laid:
    """A stage in one layout, and a step of it on the same random clips."""

    def __init__(self, recipe: Recipe, stage: Stage, *, ranks: Ranks) -> None:
        train = stage.training
        self._ranks = ranks
        self._task = build_task(recipe, stage, store=open_store(recipe.runs), device=ranks.device)
        apply_memory_and_speed(
            self._task.blocks(), checkpointing=train.checkpointing, compile=train.compile
        )
        kind = "plain" if stage.compute.workers == 0 else "deepspeed"
        self._engines = build_engines(
            stage, self._task, ranks=ranks, kind=kind, zero=stage.compute.zero
        )
        self._lr = train.optim.lr
        passes = stage.accumulation(ranks=ranks.world_size)
        self._micros = [
            _micro(recipe, stage, first=(ranks.rank * passes + number) * train.micro_batch)
            for number in range(passes)
        ]

    def step(self) -> Took:
        """As the trainer's loop does it; all ranks begin together."""
        self._ranks.barrier()
        began, busy = time.perf_counter(), time.process_time()
        for micro in self._micros:
            for name, engine in self._engines.items():
                engine.backward(self._task.loss(name, self._engines, micro).guarded)
        passed, busy_passed = time.perf_counter(), time.process_time()
        for engine in self._engines.values():
            engine.step(lr=self._lr)
        return Took(
            passes=passed - began,
            step=time.perf_counter() - began,
            busy_passes=busy_passed - busy,
            busy=time.process_time() - busy,
        )


def _micro(recipe: Recipe, stage: Stage, *, first: int) -> Micro:
    """Random clips as they are stored."""
    train = stage.training
    generator = np.random.default_rng(first)
    frames, size = train.clip.frames, train.clip.size
    sample: Mapping[str, Any]
    if stage.latents is None:
        stored = generator.integers(256, size=(frames, *size, RGB), dtype=np.uint8)
        sample = {"frames": stored}
    else:
        autoencoder = recipe.autoencoder_config(stage)
        height, width = (side // autoencoder.space_factor for side in size)
        shape = ((frames - 1) // autoencoder.time_factor + 1, height, width)
        latents = (autoencoder.latent_channels, *shape)
        sample = {"latent": generator.standard_normal(latents, np.float32).astype(np.float16)}
    clips = train.micro_batch
    return Micro(
        samples=(sample,) * clips,
        captions=((CAPTION,),) * clips,
        fps=(float(train.clip.fps),) * clips,
        packed=((),) * clips,
        random=SlotRandom(range(first, first + clips), seed=0, stage=stage.id, step=0),
        step=0,
        images=False,
    )


class Machine:
    """What a core reaches while the others do the same."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._chains = [self._chain(zero) for zero in (0, 2, 3)]

    def _chain(self, zero: int) -> Engine:
        # As the networks' blocks: about one module, with weights or without, for each tensor.
        layers = [one for _ in range(LAYERS) for one in (nn.Linear(WIDTH, WIDTH), nn.SiLU())]
        with silent():
            return build_engine(
                nn.Sequential(*layers),
                kind="deepspeed",
                zero=zero,
                precision="fp32",
                optim=Optim(lr=1e-4),
                accumulation=1,
                ema_decay=0.9,
                device=self._ranks.device,
            )

    def look(self) -> dict[str, float]:
        """Figures of now.

        Returns:
            ``flops`` of float32 matrix products a second, ``memory`` (bytes read and written a
            second), ``link`` (bytes that each rank sends a second in an all-reduce), ``fault``
            (seconds for a page of new memory), and seconds for each tensor that are added to what
            ZeRO 0 takes: ``reduce`` by ZeRO 2 to a pass, ``gather`` by ZeRO 3 to a pass and
            ``update`` by ZeRO 3 to the engine's step.
        """
        a, b, c = (torch.ones(MATRIX, MATRIX) for _ in range(3))
        x, y, z = (torch.ones(STREAMED) for _ in range(3))
        sent = torch.ones(SENT)
        product_s = self._busy_s(lambda: torch.mm(a, b, out=c))
        stream_s = self._busy_s(lambda: torch.add(x, y, out=z))
        sent_s = self._seconds(lambda: dist.all_reduce(sent.fill_(1.0)))
        kept_s = self._busy_s(lambda: z.fill_(1.0))
        fresh_s = self._busy_s(lambda: torch.empty(STREAMED).fill_(1.0))
        plain, reduced, sharded = (self._chain_s(chain) for chain in self._chains)
        ring = (self._ranks.world_size - 1) / self._ranks.world_size
        return {
            "flops": 2 * MATRIX**3 / product_s,
            "memory": 3 * x.nbytes / stream_s,
            "link": 2 * ring * sent.nbytes / sent_s,
            "fault": max(fresh_s - kept_s, 0.0) * PAGE_BYTES / z.nbytes,
            "reduce": max(reduced[0] - plain[0], 0.0) / (2 * LAYERS),
            "gather": max(sharded[0] - plain[0], 0.0) / (2 * LAYERS),
            "update": max(sharded[1] - plain[1], 0.0) / (2 * LAYERS),
        }

    def _chain_s(self, chain: Engine) -> tuple[float, float]:
        """Of a pass and of the engine's step."""
        passes, steps = list[float](), list[float]()
        for _ in range(TRIES):
            passes.append(
                self._seconds(lambda: chain.backward(chain(torch.ones(1, WIDTH)).sum()), tries=1)
            )
            steps.append(self._seconds(lambda: chain.step(lr=1e-4), tries=1))
        return statistics.median(passes), statistics.median(steps)

    def _busy_s(self, work: Callable[[], object]) -> float:
        """Of what waits for nothing: on an idle machine the processor's time is all of it."""
        return self._seconds(work, clock=time.process_time)

    def _seconds(
        self,
        work: Callable[[], object],
        *,
        tries: int = TRIES,
        clock: Callable[[], float] = time.perf_counter,
    ) -> float:
        found: list[float] = []
        for _ in range(tries):
            self._ranks.barrier()
            began = clock()
            work()
            found.append(clock() - began)
        return statistics.median(found)


class _Rank:
    """What a process is asked to do."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._laid: dict[str, Laid] = {}
        self._machine = Machine(ranks) if ranks.world_size > 1 else None

    def build(self, name: str, path: Path, overrides: tuple[str, ...], stage: str) -> None:
        recipe = load_recipe(path, overrides=overrides)
        with silent():
            self._laid[name] = Laid(recipe, recipe.stage(stage), ranks=self._ranks)
        torch.set_num_threads(1)  # DeepSpeed has its own idea

    def step(self, name: str) -> Took:
        return self._laid[name].step()

    def forget(self) -> None:
        self._laid.clear()

    def machine(self) -> dict[str, float]:
        assert self._machine is not None
        return self._machine.look()


def _serve(pipe: Connection, rank: int, ranks: int, port: int) -> None:
    warnings.filterwarnings("ignore")
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    if ranks > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **LOOPBACK}
    torch.set_num_threads(1)
    served = _Rank(join(gpus=0))
    while True:
        try:
            what, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = getattr(served, what)(*arguments)
        except Exception:  # the outer edge of this process
            pipe.send((traceback.format_exc(), None))
        else:
            pipe.send((None, answer))
