"""The process group of a test that trains in its own process: the next one makes its own."""

import torch.distributed as dist


def leave_group() -> None:
    """Ends it, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
