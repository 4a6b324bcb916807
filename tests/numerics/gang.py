"""Processes that stay up between tests and run functions as the ranks of one process group."""

import importlib
import multiprocessing
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from orchestrator.train.ranks import Ranks

TIMEOUT_S = 120.0
COLLECTIVE_TIMEOUT = timedelta(seconds=60)


class Gang:
    """``world_size`` processes in one gloo group, one thread each.

    They are forked from one process that has done nothing but import what they need.
    """

    def __init__(self, *, world_size: int, folder: Path) -> None:
        self.world_size = world_size
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.numerics.preload"])
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, rank, world_size, str(folder)), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, task: Callable[..., Any], **arguments: Any) -> list[Any]:
        """Calls ``task(ranks, **arguments)`` on every rank; results by rank.

        Raises:
            RuntimeError: with the traceback of the first rank that failed.
        """
        for pipe in self._pipes:
            pipe.send((task.__module__, task.__name__, arguments))
        answers = [self._answer(pipe) for pipe in self._pipes]
        for rank, (problem, _) in enumerate(answers):
            if problem is not None:
                raise RuntimeError(f"rank {rank} of {self.world_size}:\n{problem}")
        return [result for _, result in answers]

    def _answer(self, pipe: Connection) -> tuple[str | None, Any]:
        if not pipe.poll(TIMEOUT_S):
            self.close()
            raise RuntimeError(f"no answer within {TIMEOUT_S} s")
        return pipe.recv()

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.kill()
            process.join()


def _serve(pipe: Connection, rank: int, world_size: int, folder: str) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/group-{world_size}",
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    ranks = Ranks(rank=rank, world_size=world_size, local_rank=rank, device=torch.device("cpu"))
    while True:
        try:
            module, name, arguments = pipe.recv()
        except EOFError:
            return
        try:
            result = getattr(importlib.import_module(module), name)(ranks, **arguments)
        except Exception:  # the outer edge of this process
            pipe.send((traceback.format_exc(), None))
        else:
            pipe.send((None, result))
