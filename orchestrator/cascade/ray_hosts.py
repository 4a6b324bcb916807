"""A gang of Ray Train whose ranks are on several hosts.

Imported by the controller and by every rank. What we touch of Ray's inside is held by
tests/contract/test_ray_private.py.
"""

import os
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

GLOO = "GLOO_SOCKET_IFNAME"


class OnHosts(TorchConfig):
    """How the ranks of a gang meet that are on hosts of a cluster."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Ours."""
        return _HostsBackend


class _HostsBackend(_TorchBackend):
    """Ray's own, after every rank has said where gloo is to listen."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Called in the controller once all ranks have a process."""
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


def choose_interface() -> None:
    """Gloo's is the one by which Ray reaches this host, if the node's environment names no other.

    By itself gloo takes the address of the host's name, which on many hosts is loopback: ranks on
    two of them never meet.
    """
    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:  # else the address is another's, a router's perhaps
        os.environ.setdefault(GLOO, interface)


def interface_of(address: str) -> str | None:
    """The name of this host's network interface with an address; None if no one has it."""
    for name, known in psutil.net_if_addrs().items():
        if address in (one.address for one in known):
            return name
    return None
