"""The ranks that share the tokens of a clip (sequence parallelism), over torch's process groups."""

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from models.sora.dit_config import DiTConfig
from orchestrator.errors import UserError
from orchestrator.recipe.stage import Stage
from orchestrator.train.ranks import TIMEOUT, Ranks, join


class RankGroup:
    """A ``models.nn.sequence.TokenGroup`` of neighbouring ranks.

    DeepSpeed's ``parallel_state_sp`` makes the same groups. It is not told of them: it would divide
    gradients by the number of groups instead of the number of ranks, which is not how the gradients
    of ``models/nn/sequence.py`` add up, and of no help to ZeRO 0. It shards over all ranks either
    way.
    """

    def __init__(self, group: Any) -> None:
        self._group = group
        self.size: int = dist.get_world_size(group)
        self.index: int = dist.get_rank(group)
        # A compiled block breaks its graph here. Not a decorator: it imports the compiler.
        uncompiled: Any = torch.compiler.disable(_Exchange.apply)
        self._exchange: Callable[[Tensor, Any], Tensor] = uncompiled

    def exchange(self, x_SX: Tensor) -> Tensor:
        """See ``TokenGroup``."""
        return self._exchange(x_SX, self._group)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_SX: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _exchanged(x_SX, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _exchanged(grads[0], ctx.group), None


def _exchanged(x_SX: Tensor, group: Any) -> Tensor:
    sent = x_SX.contiguous()
    taken = torch.empty_like(sent)
    dist.all_to_all_single(taken, sent, group=group)
    return taken


def token_group(ranks: Ranks) -> RankGroup | None:
    """The group of this rank, None where it shares with no one; collective."""
    if ranks.sharing == 1:
        return None
    group, _ = dist.new_subgroups(group_size=ranks.sharing, timeout=TIMEOUT)
    return RankGroup(group)


def sampling_ranks(stage: Stage) -> Ranks:
    """This process alone, or all that torchrun has started to sample together.

    Args:
        stage: whose network makes the clips.

    Raises:
        UserError: if they cannot share the tokens of its clips.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ranks = Ranks(rank=0, world_size=1, local_rank=0, device=device)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if dist.is_initialized():
        count = dist.get_world_size()
    if count == 1:
        return ranks
    model = stage.training.model
    if not isinstance(model, DiTConfig):
        raise UserError(
            f"WORLD_SIZE={count}: processes share tokens of a video_dit only, seen "
            f"stages.{stage.id}.train.model.kind={model.kind}, wanted one process"
        )
    if model.shape.heads % count:
        raise UserError(
            f"WORLD_SIZE={count}: stages.{stage.id}.train.model has {model.shape.heads} heads, "
            "wanted as many processes as a divisor of them"
        )
    return join(gpus=int(device.type == "cuda"), sharing=count)
