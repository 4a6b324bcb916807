"""A gang of Ray Train whose ranks are reached on loopback only.

Imported by the controller and by every rank. What we touch of Ray's inside is held by
tests/contract/test_ray_private.py.
"""

import os
from typing import Any

from ray.train._internal.utils import get_address_and_port
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

from orchestrator.train.ranks import join


class OnLoopback(TorchConfig):
    """How the ranks of a gang meet that are all on this machine."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Ours."""
        return _LoopbackBackend


class _LoopbackBackend(_TorchBackend):
    """Ranks join as plain processes do: the store that Ray's own makes listens everywhere."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Called in the controller once all ranks have a process."""
        del backend_config
        address, port = worker_group.execute_single(0, get_address_and_port)
        gpus = int(worker_group.get_resources_per_worker().get("GPU", 0))
        worker_group.execute(_join, address=address, port=port, gpus=gpus)


def _join(*, address: str, port: int, gpus: int) -> None:
    _set_torch_distributed_env_vars()
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # as Ray's own
    join(gpus=gpus)
