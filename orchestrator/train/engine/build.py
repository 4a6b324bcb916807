"""The engine that a stage asks for."""

import torch
import torch.distributed as dist
from torch import nn

from orchestrator.recipe.train import Optim
from orchestrator.train.engine.base import Engine, Kind, Precision
from orchestrator.train.engine.optimizer import LrScale, same_lr
from orchestrator.train.engine.replicated import ReplicatedEngine
from orchestrator.train.engine.zero import ZeroEngine


def build_engine(
    module: nn.Module,
    *,
    kind: Kind,
    zero: int,
    precision: Precision,
    optim: Optim,
    accumulation: int,
    ema_decay: float,
    device: torch.device,
    lr_scale: LrScale = same_lr,
) -> Engine:
    """Wraps a network for training; collective if there is more than one rank.

    Stage 0 shards nothing and needs nothing of DeepSpeed, whose own stage 0 applies non-finite
    gradients in fp32 and cannot sum bf16 gradients in fp32: it runs in the same engine as the
    plain kind, with gradients averaged over the ranks.

    Args:
        module: float32, with the same weights on every rank; parameters that don't require
            gradients are left alone (but cast in bf16).
        kind: "plain" is one process without DeepSpeed.
        zero: what DeepSpeed shards: 0 nothing, 1 masters, moments and EMA, 2 gradients too,
            3 weights too. Not looked at for the plain kind.
        precision: dtype of the module's parameters; masters, moments, EMA, gradient sums and
            gradient averages are float32 in both.
        optim: AdamW's settings; its learning rate is given to every step.
        accumulation: calls of ``backward`` per ``step``.
        ema_decay: share of the old average kept by an applied step.
        device: where the module goes.
        lr_scale: learning rate of a weight, by name, as a share of what a step is given.

    Raises:
        ValueError: if a plain engine is asked for in a group of several ranks, or nothing trains.
    """
    if kind == "plain" and dist.is_initialized() and dist.get_world_size() > 1:
        raise ValueError(f"a plain engine is one process, seen {dist.get_world_size()} ranks")
    if kind == "plain" or zero == 0:
        return ReplicatedEngine(
            module,
            precision=precision,
            optim=optim,
            accumulation=accumulation,
            ema_decay=ema_decay,
            device=device,
            lr_scale=lr_scale,
        )
    return ZeroEngine(
        module,
        stage=zero,
        precision=precision,
        optim=optim,
        accumulation=accumulation,
        ema_decay=ema_decay,
        device=device,
        lr_scale=lr_scale,
    )
