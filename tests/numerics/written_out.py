"""The small training once more, without engines: float64, AdamW by its formulas."""

import torch
from torch import Tensor

from orchestrator.train.ranks import Ranks
from orchestrator.train.schedule import learning_rate
from tests.numerics.network import Denoiser, build
from tests.numerics.tasks import EMA_DECAY, OPTIM, STEPS, micro_batches

ALONE = Ranks(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))


def train(*, steps: int) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """Losses, gradient norms and the EMA's parameters after some steps of ``STEPS``.

    Source: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2.
    """
    module = build(Denoiser).double()
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    first = {name: torch.zeros_like(p) for name, p in named.items()}
    second = {name: torch.zeros_like(p) for name, p in named.items()}
    ema = {name: p.detach().clone() for name, p in named.items()}
    losses: list[float] = []
    norms: list[float] = []
    assert OPTIM.grad_clip is not None
    for step in range(steps):
        micros = list(micro_batches(ALONE, step=step))
        x, time, target = (torch.cat(parts) for parts in zip(*micros, strict=True))
        loss = (module(x, time) - target).square().mean()
        gradients = torch.autograd.grad(loss, list(named.values()))
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt().item()
        lr = learning_rate(step, optim=OPTIM, steps=STEPS)
        with torch.no_grad():
            for (name, p), g in zip(named.items(), gradients, strict=True):
                g = g * min(1.0, OPTIM.grad_clip / norm)
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g.square()
                mean = first[name] / (1 - 0.9 ** (step + 1))
                spread = (second[name] / (1 - 0.999 ** (step + 1))).sqrt()
                decay = OPTIM.weight_decay if p.ndim >= 2 else 0.0
                p.sub_(lr * (mean / (spread + OPTIM.eps) + decay * p))
                ema[name] = EMA_DECAY * ema[name] + (1 - EMA_DECAY) * p
        losses.append(loss.item())
        norms.append(norm)
    return losses, norms, ema
