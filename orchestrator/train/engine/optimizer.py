"""AdamW as every engine uses it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.recipe.train import Optim

LR_SCALE = "lr_scale"
LrScale = Callable[[str], float]


def same_lr(name: str) -> float:
    """One learning rate for all weights."""
    del name
    return 1.0


def parameter_groups(
    module: nn.Module, *, weight_decay: float, lr_scale: LrScale = same_lr
) -> list[dict[str, Any]]:
    """Trainable parameters: matrices decay; norms, biases and other vectors don't.

    Each group has the scale of its learning rate beside it, for ``set_lr``.

    Raises:
        ValueError: if nothing in the module is trainable.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((lr_scale(name), parameter.ndim < 2), []).append(parameter)
    if not groups:
        raise ValueError(f"{type(module).__name__} has no trainable parameter")
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if is_vector else weight_decay,
            LR_SCALE: scale,
        }
        for (scale, is_vector), parameters in groups.items()
    ]


def set_lr(groups: Iterable[dict[str, Any]], *, lr: float) -> None:
    """Gives every group its learning rate."""
    for group in groups:
        group["lr"] = lr * group[LR_SCALE]


def build_adamw(groups: list[dict[str, Any]], *, optim: Optim) -> torch.optim.AdamW:
    """Fused AdamW; the learning rate is set at every step."""
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def fresh_state(parameter: Tensor) -> dict[str, Tensor]:
    """AdamW's state before the first step; each parameter has a step tensor of its own."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }
