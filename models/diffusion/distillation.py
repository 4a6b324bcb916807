"""Distillation of a guided sampler into a network that takes few steps.

Shape letters: B clips, C channels, T frames, H W height and width. Nothing here depends on the
number of dimensions after B.

Phase 1 puts both outputs of a guided teacher into one network (``guided_target``). Phase 2
halves the steps again and again: a student's step stands for two of its teacher's
(``two_step_target``), and becomes the next teacher. Both phases say what the student's clean
clip should be, and share ``distillation_loss``.

Source: Salimans and Ho 2022, arXiv:2202.00512, for phase 2; Meng et al. 2022, arXiv:2210.03142,
for both; Ho et al. 2022 (Imagen Video), arXiv:2210.02303, section 2.7. The student of phase 1
learns one guidance scale here and is not told it; in Meng et al. it takes the scale as an input.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.diffusion.config import GuidanceConfig
from models.diffusion.distillation_config import DistillationConfig
from models.diffusion.guidance import Denoise, combine
from models.diffusion.objective import Objective
from models.diffusion.shapes import per_clip
from models.diffusion.times import shift_time
from models.diffusion.weights import clean_error_weight, clip_mean


@dataclass(frozen=True)
class StudentTimes:
    """A student's step from ``here_B`` to ``next_B``, by way of ``middle_B``; [B], float64."""

    here_B: Tensor
    middle_B: Tensor
    next_B: Tensor


def student_times(
    uniform_B: Tensor, *, config: DistillationConfig, objective: Objective
) -> StudentTimes:
    """One of the student's N steps per clip.

    Args:
        uniform_B: draws in [0, 1), [B].
        config: N.
        objective: the student's. Its shift bends the grid as sampling does; a recipe whose
            sampler bends it otherwise is refused (orchestrator/recipe/relations.py).

    Source: arXiv:2202.00512, algorithm 2: t = i/N, then t - 0.5/N and t - 1/N.
    """
    after_B = (uniform_B.double() * config.steps).floor()
    grid = [(after_B + part) / config.steps for part in (1.0, 0.5, 0.0)]
    here_B, middle_B, next_B = (shift_time(t_B, shift=objective.shift) for t_B in grid)
    return StudentTimes(here_B=here_B, middle_B=middle_B, next_B=next_B)


@torch.no_grad()
def guided_target(
    both: Denoise,
    x_t_BCTHW: Tensor,
    t_B: Tensor,
    *,
    objective: Objective,
    config: GuidanceConfig,
) -> Tensor:
    """Phase 1: the clean clip that a guided teacher predicts, [B, C, T, H, W].

    Args:
        both: the teacher on [2B, ...] inputs, the first B with their captions, the rest
            without.
        x_t_BCTHW: noisy clips.
        t_B: their times in (0, 1], one per clip, [B]; drawn as for any training.
        objective: the teacher's.
        config: scale, interval and rescale.

    Raises:
        ValueError: if the scale oscillates, or the teacher predicts epsilon.

    Source: arXiv:2210.03142, section 3.1.
    """
    _kind(objective)
    if config.oscillation is not None:
        raise ValueError("guidance.oscillation differs from step to step, wanted null to distil")
    output = both(torch.cat([x_t_BCTHW, x_t_BCTHW]), torch.cat([t_B, t_B]))
    with_, without = output.chunk(2)
    channels = x_t_BCTHW.shape[1]
    mixed = combine(with_, without, channels=channels, scale=config.scale, rescale=config.rescale)
    low, high = config.interval
    is_guided = per_clip((t_B >= low) & (t_B <= high), like=x_t_BCTHW)
    return objective.predict(torch.where(is_guided, mixed, with_), x_t_BCTHW, t_B).clean


@torch.no_grad()
def two_step_target(
    teacher: Denoise, x_t_BCTHW: Tensor, times: StudentTimes, *, objective: Objective
) -> Tensor:
    """Phase 2: the clean clip that takes one DDIM step to where the teacher's two end.

    Written as a mean of the teacher's two clean clips, which it equals, because the difference
    of two noisy ones in the paper's form loses digits where the steps are short.

    Args:
        teacher: denoiser of [B, ...] inputs, with its conditions.
        x_t_BCTHW: noisy clips at ``times.here_B``.
        times: the student's steps.
        objective: the teacher's.

    Returns:
        x~ of algorithm 2, [B, C, T, H, W].

    Raises:
        ValueError: if the teacher predicts epsilon.

    Source: arXiv:2202.00512, algorithm 2. Time 0 is clean (alpha 1, sigma 0) under every
    schedule, as it is for the samplers.
    """
    _kind(objective)
    here, middle, after = (
        _ends(t_B, objective=objective, like=x_t_BCTHW)
        for t_B in (times.here_B, times.middle_B, times.next_B)
    )
    first = objective.predict(teacher(x_t_BCTHW, times.here_B.float()), x_t_BCTHW, times.here_B)
    x_middle = (middle.alpha * first.clean + middle.sigma * first.noise).to(x_t_BCTHW)
    output = teacher(x_middle, times.middle_B.float())
    second = objective.predict(output, x_middle, times.middle_B)
    from_middle = after.sigma / middle.sigma
    early = from_middle * (middle.alpha - middle.sigma / here.sigma * here.alpha)
    late = after.alpha - from_middle * middle.alpha
    share = (late / (early + late)).to(first.clean)
    return first.clean + share * (second.clean - first.clean)


def distillation_loss(
    prediction_BCTHW: Tensor,
    clean_BCTHW: Tensor,
    x_t_BCTHW: Tensor,
    t_B: Tensor,
    *,
    objective: Objective,
    config: DistillationConfig,
    weight: Tensor | None = None,
) -> Tensor:
    """Weighted squared error of the student's clean clip, per clip, [B], float32.

    Computed on what the student predicts, with the weight restated for it: the error of a
    clean clip that v or a velocity stands for is sigma times theirs.

    Args:
        prediction_BCTHW: the student's output at x_t, [B, C, T, H, W].
        clean_BCTHW: what its clean clip should be, from one of the targets above.
        x_t_BCTHW: the noisy clips that both saw.
        t_B: their times in (0, 1], [B].
        objective: the student's; of the teacher's schedule, not necessarily of its kind.
        config: the weighting.
        weight: share of each position in its clip's mean, as in ``Objective.loss``.

    Raises:
        ValueError: if the student predicts epsilon or a variance, or the shapes differ.

    Source: arXiv:2202.00512, equations 9 and 10.
    """
    kind = _kind(objective)
    if prediction_BCTHW.shape != clean_BCTHW.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction_BCTHW.shape)}, "
            f"wanted {tuple(clean_BCTHW.shape)}"
        )
    target = objective.express(clean_BCTHW.float(), x_t_BCTHW.float(), t_B)
    error_B = clip_mean((prediction_BCTHW.float() - target).square(), weight=weight)
    shares = objective.coefficients(t_B)
    return error_B * clean_error_weight(shares, kind=kind, weighting=config.weighting)


@dataclass(frozen=True)
class _Ends:
    """Shares at the times of a step, [B, 1, 1, 1, 1], float64."""

    alpha: Tensor
    sigma: Tensor


def _ends(t_B: Tensor, *, objective: Objective, like: Tensor) -> _Ends:
    shares = objective.coefficients(t_B)
    is_clean = t_B == 0.0
    return _Ends(
        alpha=per_clip(torch.where(is_clean, 1.0, shares.alpha_B), like=like),
        sigma=per_clip(torch.where(is_clean, 0.0, shares.sigma_B), like=like),
    )


def _kind(objective: Objective) -> Literal["flow", "x0", "v"]:
    if objective.kind == "epsilon":
        raise ValueError(
            "kind=epsilon cannot be distilled: at t=1 it says nothing about the clip, wanted "
            "kind v, x0 or flow (arXiv:2202.00512, section 4)"
        )
    return objective.kind
