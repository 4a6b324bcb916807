"""Process groups in tests."""

import socket

import torch.distributed as dist

from orchestrator.train.loopback import HOST


def free_port() -> int:
    """Where ranks on this machine may meet."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def leave_group() -> None:
    """Ends that of this process, if there is one: the next test makes its own."""
    if dist.is_initialized():
        dist.destroy_process_group()
