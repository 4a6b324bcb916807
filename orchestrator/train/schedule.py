"""Learning rate as a function of the step."""

import math

from orchestrator.recipe.train import Optim


def learning_rate(step: int, *, optim: Optim, steps: int) -> float:
    """The rate that optimizer step ``step`` uses.

    Args:
        step: steps done before this one, from 0.
        optim: peak rate, warm-up length and shape.
        steps: length of the whole training.

    Returns:
        Linear from ``lr / warmup_steps`` to ``lr`` over the warm-up; then constant, or a half
        cosine that reaches ``lr * final_lr_ratio`` at the last step.
    """
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    if optim.schedule == "constant":
        return optim.lr
    remaining = steps - 1 - optim.warmup_steps
    done = min((step - optim.warmup_steps) / remaining, 1.0) if remaining > 0 else 1.0
    floor = optim.lr * optim.final_lr_ratio
    return floor + (optim.lr - floor) * 0.5 * (1.0 + math.cos(math.pi * done))
