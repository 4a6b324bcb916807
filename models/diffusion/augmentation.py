"""Noise on the smaller clip that a super-resolution model starts from.

Shape letters: B clips, C channels, T frames, H W height and width. Nothing here depends on the
number of dimensions after B.
"""

from typing import Literal

from torch import Tensor

from models.diffusion.schedules import cosine, cosine_time, linear
from models.diffusion.shapes import per_clip


def augment(x_BCTHW: Tensor, noise_BCTHW: Tensor, level_B: Tensor) -> Tensor:
    """Mixes each clip with noise, keeping the variance of white data.

    The model is told the level, so that it knows how far to trust its input. Trained on clean
    ones only, it would copy the faults of the stage before it.

    Args:
        x_BCTHW: the smaller clip, brought to the model's size, pixels in [-1, 1], float32.
        noise_BCTHW: standard normal, same shape.
        level_B: times of the cosine schedule in [0, 1], [B]: 0 leaves the clip as it is (to
            5e-5, where that schedule begins), 1 leaves noise alone.

    Returns:
        alpha(level) x + sigma(level) noise, in the shape and dtype of the clip.

    Raises:
        ValueError: if ``level_B`` is not one level per clip.

    Source: Ho et al. 2021, arXiv:2106.15282; Imagen, arXiv:2205.11487, section 2.4: noise of a
    variance-preserving process. Which schedule turns a level into shares is not published;
    under the cosine one, half the levels keep more signal than noise.
    """
    if level_B.shape != x_BCTHW.shape[:1]:
        raise ValueError(f"level_B has shape {tuple(level_B.shape)}, wanted ({len(x_BCTHW)},)")
    shares = cosine(level_B)
    alpha = per_clip(shares.alpha_B.to(x_BCTHW), like=x_BCTHW)
    sigma = per_clip(shares.sigma_B.to(x_BCTHW), like=x_BCTHW)
    return alpha * x_BCTHW + sigma * noise_BCTHW


def as_cosine(level_B: Tensor, *, schedule: Literal["cosine", "linear"]) -> Tensor:
    """Times of the cosine schedule with as much noise as another one has at these levels, [B].

    Networks are told these, whatever schedule the recipe counts levels on.
    """
    if schedule == "cosine":
        return level_B
    return cosine_time(linear()(level_B).sigma_B).to(level_B)
