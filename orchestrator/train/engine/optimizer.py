"""AdamW as every engine uses it."""

from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.recipe.train import Optim


def parameter_groups(module: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices decay; norms, biases and other vectors don't.

    Raises:
        ValueError: if nothing in the module is trainable.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError(f"{type(module).__name__} has no trainable parameter")
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


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
