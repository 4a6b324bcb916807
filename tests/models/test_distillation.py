"""Distillation targets, their loss, and the sampler for distilled models."""

import math

import pytest
import torch
from torch import Tensor

from models.diffusion.config import (
    DiffusionConfig,
    FlowConfig,
    GuidanceConfig,
    OscillationConfig,
    SamplerConfig,
)
from models.diffusion.distillation import (
    distillation_loss,
    guided_target,
    student_times,
    two_step_target,
)
from models.diffusion.distillation_config import DistillationConfig
from models.diffusion.guidance import Denoise, guided
from models.diffusion.objective import Objective, build_objective
from models.diffusion.samplers import grid_of, sample
from tests.models.gaussians import gaussian, three_modes

Config = FlowConfig | DiffusionConfig
OBJECTIVES: list[Config] = [
    FlowConfig(),
    FlowConfig(shift=3.0),
    *[
        DiffusionConfig(kind=kind, schedule=schedule)
        for kind in ("x0", "v")
        for schedule in ("cosine", "linear", "zero_snr")
    ],
]


def _name(config: Config) -> str:
    parts = (config.shift,) if isinstance(config, FlowConfig) else (config.schedule,)
    return "-".join(map(str, (config.kind, *parts)))


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _round(steps: int) -> DistillationConfig:
    return DistillationConfig(steps=steps)


def _every_step(steps: int) -> Tensor:
    """Uniform draws that name each of a student's steps once, the last of sampling first."""
    return (torch.arange(steps, dtype=torch.float64) + 0.5) / steps


def test_draws_name_the_students_steps() -> None:
    objective = build_objective(DiffusionConfig(kind="v"))
    draws = torch.tensor([0.0, 0.24, 0.25, 0.99])
    times = student_times(draws, config=_round(4), objective=objective)
    assert times.here_B.tolist() == [0.25, 0.25, 0.5, 1.0]
    assert times.middle_B.tolist() == [0.125, 0.125, 0.375, 0.875]
    assert times.next_B.tolist() == [0.0, 0.0, 0.25, 0.75]


@pytest.mark.parametrize("config", OBJECTIVES, ids=_name)
def test_times_lie_on_the_samplers_grids(config: Config) -> None:
    objective = build_objective(config)
    times = student_times(_every_step(5), config=_round(5), objective=objective)
    student = [at.t for at in grid_of(objective, config=SamplerConfig(steps=5))][::-1]
    teacher = [at.t for at in grid_of(objective, config=SamplerConfig(steps=10))][::-1]
    assert times.here_B.tolist() == pytest.approx(student[1:], abs=1e-15)
    assert times.next_B.tolist() == pytest.approx(student[:-1], abs=1e-15)
    assert times.middle_B.tolist() == pytest.approx(teacher[1::2], abs=1e-15)


@pytest.mark.parametrize("config", OBJECTIVES, ids=_name)
def test_two_step_target_is_algorithm_2(config: Config) -> None:
    objective, steps = build_objective(config), 4
    data = three_modes()
    times = student_times(_every_step(steps), config=_round(steps), objective=objective)
    z = _normal(steps, 6, 2)
    found = two_step_target(data.denoiser(objective), z, times, objective=objective)
    grid = [at for at in grid_of(objective, config=SamplerConfig(steps=2 * steps))][::-1]
    for i in range(steps):
        after, middle, here = grid[2 * i : 2 * i + 3]
        z_t = z[i : i + 1]

        def clean(point: Tensor, t: float) -> Tensor:
            # The network is told float32 times; what its output means is reckoned in float64.
            told = torch.tensor([t]).float()
            output = data.denoiser(objective)(point, told)
            return objective.predict(output, point, torch.tensor([t], dtype=torch.float64)).clean

        x_1 = clean(z_t, here.t)
        z_1 = middle.alpha * x_1 + middle.sigma / here.sigma * (z_t - here.alpha * x_1)
        x_2 = clean(z_1, middle.t)
        z_2 = after.alpha * x_2 + after.sigma / middle.sigma * (z_1 - middle.alpha * x_2)
        ratio = after.sigma / here.sigma
        wanted = (z_2 - ratio * z_t) / (after.alpha - ratio * here.alpha)
        # The paper's form loses what the docstring says: some 1e2 roundings of float64.
        torch.testing.assert_close(found[i : i + 1], wanted, rtol=0, atol=1e-12)


def _perfect_student(teacher: Denoise, *, objective: Objective, steps: int) -> Denoise:
    """Answers every time of its grid with the phase 2 target."""
    grid = student_times(_every_step(steps), config=_round(steps), objective=objective).here_B

    def denoise(x_t: Tensor, t_B: Tensor) -> Tensor:
        step = (grid - t_B[0].double()).abs().argmin()
        draw = _every_step(steps)[step].expand(len(x_t))
        times = student_times(draw, config=_round(steps), objective=objective)
        clean = two_step_target(teacher, x_t, times, objective=objective)
        return objective.express(clean, x_t, times.here_B)

    return denoise


@pytest.mark.parametrize("config", OBJECTIVES, ids=_name)
def test_half_the_steps_of_a_perfect_student_are_all_the_teachers(config: Config) -> None:
    objective, steps = build_objective(config), 4
    teacher, noise = three_modes().denoiser(objective), _normal(2, 20, 2)
    student = _perfect_student(teacher, objective=objective, steps=steps)
    ends = [
        sample(one, noise, objective=objective, config=SamplerConfig(kind="ddim", steps=count))
        for one, count in ((student, steps), (teacher, 2 * steps))
    ]
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("config", OBJECTIVES, ids=_name)
def test_a_trained_student_lands_on_the_teachers_samples(config: Config) -> None:
    """For one Gaussian the target is affine in x_t, and so is this student, step by step."""
    objective, steps, points = build_objective(config), 4, 50
    mean, std = 0.4, 0.6
    teacher = gaussian(mean=mean, std=std).denoiser(objective)
    draws, clips = _every_step(steps).repeat_interleave(points), mean + std * _normal(200, 1)
    times = student_times(draws, config=_round(steps), objective=objective)
    x_t = objective.corrupt(clips, _normal(200, 1, seed=1), times.here_B)
    clean = two_step_target(teacher, x_t, times, objective=objective)
    target = objective.express(clean, x_t, times.here_B)
    inputs = torch.stack([x_t, torch.ones_like(x_t)], dim=-1).view(steps, points, 2)
    weights = torch.linalg.lstsq(inputs, target.view(steps, points, 1)).solution
    grid = times.here_B[::points]

    def student(x: Tensor, t_B: Tensor) -> Tensor:
        slope, shift = weights[(grid - t_B[:, None].double()).abs().argmin(dim=1)].unbind(1)
        return slope * x + shift

    loss_B = distillation_loss(
        student(x_t, times.here_B),
        clean,
        x_t,
        times.here_B,
        objective=objective,
        config=_round(steps),
    )
    assert loss_B.max().item() < 1e-10  # float32
    noise = _normal(30, 1, seed=2)
    ends = [
        sample(one, noise, objective=objective, config=SamplerConfig(steps=count))
        for one, count in ((student, steps), (teacher, 2 * steps))
    ]
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-8)


@pytest.mark.parametrize("weighting", ["truncated_snr", "snr_plus_one"])
@pytest.mark.parametrize("config", OBJECTIVES, ids=_name)
def test_loss_is_the_papers_on_the_clean_clip(config: Config, weighting: str) -> None:
    objective = build_objective(config)
    clean, x_t, output = (_normal(5, 3, 4, seed=seed) for seed in range(3))
    t_B = torch.tensor([0.1, 0.3, 0.5, 0.8, 1.0], dtype=torch.float64)
    found = distillation_loss(
        output,
        clean,
        x_t,
        t_B,
        objective=objective,
        config=DistillationConfig.model_validate({"steps": 10, "weighting": weighting}),
    )
    student = objective.predict(output, x_t, t_B).clean
    shares = objective.coefficients(t_B)
    for b in range(5):
        snr = (shares.alpha_B[b] / shares.sigma_B[b]).square().item()
        scale = max(snr, 1.0) if weighting == "truncated_snr" else snr + 1.0
        wanted = scale * (student[b] - clean[b]).square().mean().item()
        assert found[b].item() == pytest.approx(wanted, rel=1e-5)  # float32


def test_given_frames_do_not_count_in_the_loss() -> None:
    objective = build_objective(DiffusionConfig(kind="v"))
    clean, x_t, output = (_normal(2, 1, 3, 2, 2, seed=seed) for seed in range(3))
    weight = torch.tensor([0.0, 1.0, 1.0]).view(1, 1, 3, 1, 1).expand(2, -1, -1, -1, -1)
    t_B = torch.tensor([0.2, 0.7])
    found, fewer = (
        distillation_loss(*parts, t_B, objective=objective, config=_round(2), weight=each)
        for parts, each in (
            ((output, clean, x_t), weight),
            ((output[:, :, 1:], clean[:, :, 1:], x_t[:, :, 1:]), None),
        )
    )
    torch.testing.assert_close(found, fewer)


def _both(x: Tensor, t_B: Tensor) -> Tensor:
    """With captions 0.9 x + t, without 0.5 x."""
    with_, without = x.chunk(2)
    return torch.cat([0.9 * with_ + t_B[: len(with_)].view(-1, 1, 1).to(x), 0.5 * without])


@pytest.mark.parametrize("config", OBJECTIVES, ids=_name)
def test_guided_target_is_the_guided_samplers_clean_clip(config: Config) -> None:
    """One batch of clips at many times against guidance of each clip alone."""
    objective = build_objective(config)
    guidance = GuidanceConfig(scale=6.0, interval=(0.25, 0.75), rescale=0.3)
    x_t, t_B = _normal(5, 3, 4), torch.tensor([0.1, 0.25, 0.5, 0.75, 1.0])
    found = guided_target(_both, x_t, t_B, objective=objective, config=guidance)
    denoise = guided(
        conditional=lambda x, t: _both(torch.cat([x, x]), torch.cat([t, t])).chunk(2)[0],
        both=_both,
        config=guidance,
    )
    for b in range(5):
        one, t = x_t[b : b + 1], t_B[b : b + 1]
        wanted = objective.predict(denoise(one, t), one, t).clean
        torch.testing.assert_close(found[b : b + 1], wanted, rtol=0, atol=1e-12)


def test_targets_carry_no_gradient_into_the_teacher() -> None:
    objective = build_objective(DiffusionConfig(kind="v"))
    gain = torch.ones(1, dtype=torch.float64, requires_grad=True)
    x_t = _normal(3, 2, 2)
    times = student_times(_every_step(3), config=_round(3), objective=objective)
    two = two_step_target(lambda x, t_B: gain * x, x_t, times, objective=objective)
    one = guided_target(
        lambda x, t_B: gain * x,
        x_t,
        times.here_B,
        objective=objective,
        config=GuidanceConfig(scale=2.0),
    )
    assert not two.requires_grad
    assert not one.requires_grad


def test_epsilon_is_refused() -> None:
    objective = build_objective(DiffusionConfig(kind="epsilon"))
    x, t_B = torch.zeros(2, 1, 1), torch.ones(2)
    times = student_times(t_B / 2, config=_round(2), objective=objective)
    message = "kind=epsilon cannot be distilled"
    with pytest.raises(ValueError, match=message):
        two_step_target(lambda x, t_B: x, x, times, objective=objective)
    with pytest.raises(ValueError, match=message):
        guided_target(_both, x, t_B, objective=objective, config=GuidanceConfig())
    with pytest.raises(ValueError, match=message):
        distillation_loss(x, x, x, t_B, objective=objective, config=_round(2))


def test_an_oscillating_teacher_is_refused() -> None:
    config = GuidanceConfig(scale=3.0, oscillation=OscillationConfig())
    x, t_B = torch.zeros(2, 1, 1), torch.ones(2)
    objective = build_objective(DiffusionConfig(kind="v"))
    with pytest.raises(ValueError, match=r"guidance.oscillation differs from step to step"):
        guided_target(_both, x, t_B, objective=objective, config=config)


def test_a_prediction_of_another_shape_is_refused() -> None:
    objective = build_objective(DiffusionConfig(kind="v"))
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"prediction has shape \(2, 6\), wanted \(2, 3\)"):
        distillation_loss(
            torch.zeros(2, 6), x, x, torch.ones(2), objective=objective, config=_round(2)
        )


def test_ddim_back_goes_two_steps_on_and_one_back() -> None:
    """Four steps of Imagen Video's sampler by hand, under DDPM's betas."""
    objective = build_objective(DiffusionConfig(kind="x0", schedule="linear"))
    seen: list[Tensor] = []

    def denoise(x: Tensor, t_B: Tensor) -> Tensor:
        seen.append(x)
        return 0.3 * x + t_B.view(-1, 1).to(x)

    config = SamplerConfig(kind="ddim_back", steps=4)
    start, generator = _normal(1, 3), torch.Generator().manual_seed(5)
    found = sample(denoise, start, objective=objective, config=config, generators=[generator])
    bars = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), dim=0)
    bar = {t: bars[int(1000 * t) - 1].item() for t in (1.0, 0.75, 0.5, 0.25)} | {0.0: 1.0}
    again, x = torch.Generator().manual_seed(5), start
    for here, back, far in ((1.0, 0.75, 0.5), (0.75, 0.5, 0.25), (0.5, 0.25, 0.0)):
        clean = 0.3 * x + here
        noise = (x - math.sqrt(bar[here]) * clean) / math.sqrt(1 - bar[here])
        x = math.sqrt(bar[far]) * clean + math.sqrt(1 - bar[far]) * noise
        kept = bar[back] / bar[far]  # the product of 1 - beta between the two
        z = torch.randn(3, generator=again, dtype=torch.float64)
        x = math.sqrt(kept) * x + math.sqrt(1 - kept) * z
        torch.testing.assert_close(seen[len(seen) - 4 :][[0.75, 0.5, 0.25].index(back) + 1], x)
    torch.testing.assert_close(found, 0.3 * x + 0.25, rtol=0, atol=1e-12)


def test_ddim_back_in_one_step_is_plain() -> None:
    objective = build_objective(DiffusionConfig(kind="v"))
    denoise, noise = three_modes().denoiser(objective), _normal(1, 5, 2)
    ends = [
        sample(
            denoise,
            noise,
            objective=objective,
            config=SamplerConfig.model_validate({"kind": kind, "steps": 1}),
            generators=[torch.Generator().manual_seed(0)],
        )
        for kind in ("ddim_back", "ddim")
    ]
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)
