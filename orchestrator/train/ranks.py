"""The process group of a stage, and the few collectives that the trainer itself needs."""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.errors import UnavailableError, UserError
from orchestrator.train.loopback import HOST, LOOPBACK

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks:
    """Where this process stands among its peers.

    Ranks of a group (the first ``sharing`` of them, the next, ...) share the tokens of every clip:
    for all that is about clips a group counts as one reader.
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    sharing: int = 1

    @property
    def reader(self) -> int:
        """Which group this rank is in; its own number where nothing is shared."""
        return self.rank // self.sharing

    @property
    def readers(self) -> int:
        """Groups, each of which reads clips of its own."""
        return self.world_size // self.sharing

    @property
    def is_first_reader(self) -> bool:
        """Whether this rank speaks for its group."""
        return self.rank % self.sharing == 0

    def of_readers(self, everyone: Sequence[T]) -> list[T]:
        """One value of each group, out of every rank's."""
        return list(everyone[:: self.sharing])

    def agree(self, number: int, flag: bool) -> tuple[int, bool]:
        """The largest number of all ranks, and whether every rank's flag is set, on every rank."""
        if self.world_size == 1:
            return number, flag
        value = torch.tensor([number, int(not flag)], device=self.device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        largest, not_all = value.tolist()
        return largest, not not_all

    def total(self, values: Tensor) -> Tensor:
        """Elementwise sum over ranks, on the device of ``values``."""
        if self.world_size == 1:
            return values
        # NCCL takes nothing but tensors of its device.
        shared = values.to(self.device, copy=True)
        dist.all_reduce(shared)
        return shared.to(values.device)

    def barrier(self) -> None:
        """Waits for every rank."""
        if self.world_size > 1:
            dist.barrier()


def join(*, gpus: int, sharing: int = 1) -> Ranks:
    """Joins the process group that RANK, WORLD_SIZE and MASTER_* describe, or finds it joined.

    A process with no such environment is a gang of one, with a group of its own: DeepSpeed wants
    one even then. A gang that is all on this machine listens on loopback only.

    Args:
        gpus: of this process.
        sharing: ranks that share the tokens of a clip.

    Raises:
        UserError: if there are to be peers and nothing says where.
        UnavailableError: if the port to meet at is taken.
    """
    rank = int(os.environ.get("RANK", "0"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if dist.is_initialized():
        rank, world_size = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", _device_index(local_rank)) if gpus else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        if "MASTER_ADDR" in os.environ:
            if os.environ["MASTER_ADDR"] == HOST:  # all that torchrun says
                for name, value in LOOPBACK.items():
                    os.environ.setdefault(name, value)
            store = _loopback_store(rank, world_size=world_size)
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT
            )
        elif world_size > 1:
            raise UserError(
                f"WORLD_SIZE={world_size} without MASTER_ADDR, wanted both, as torchrun sets them, "
                "or neither"
            )
        else:
            os.environ.update(LOOPBACK)
            store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
            dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=TIMEOUT)
    return Ranks(
        rank=rank, world_size=world_size, local_rank=local_rank, device=device, sharing=sharing
    )


def _loopback_store(rank: int, *, world_size: int) -> dist.Store | None:  # pyright: ignore[reportPrivateImportUsage]
    """Where a gang on loopback meets: torch's own store would listen on every address.

    None leaves it to torch, for gangs of several machines and where torchrun serves the store.
    """
    is_served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if os.environ["MASTER_ADDR"] != HOST or is_served:
        return None
    port = int(os.environ["MASTER_PORT"])
    try:
        listening = socket.create_server((HOST, port)).detach() if rank == 0 else None
    except OSError as error:
        raise UnavailableError(f"MASTER_PORT={port} on {HOST}: {error.strerror}") from None
    return dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        HOST,
        port,
        world_size=world_size,
        is_master=rank == 0,
        timeout=TIMEOUT,
        master_listen_fd=listening,
    )


def _device_index(local_rank: int) -> int:
    # A launcher that hides the other devices leaves one, numbered 0.
    return local_rank if torch.cuda.device_count() > local_rank else 0
