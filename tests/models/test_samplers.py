"""Samplers on data whose exact denoiser is known."""

import math

import pytest
import torch
from torch import Tensor

from models.diffusion.config import DiffusionConfig, FlowConfig, SamplerConfig
from models.diffusion.objective import Objective, build_objective
from models.diffusion.samplers import grid_of, sample
from tests.models.gaussians import gaussian, three_modes

Config = FlowConfig | DiffusionConfig
OBJECTIVES: list[Config] = [
    FlowConfig(),
    FlowConfig(shift=2.0),
    *[
        DiffusionConfig(kind=kind, schedule=schedule)
        for kind in ("epsilon", "x0", "v")
        for schedule in ("cosine", "linear", "zero_snr")
        if (kind, schedule) != ("epsilon", "zero_snr")
    ],
]
SAMPLERS = [
    SamplerConfig(kind="euler", steps=200),
    SamplerConfig(kind="heun", steps=40),
    SamplerConfig(kind="ddim", eta=0.5, steps=200),
    SamplerConfig(kind="ddim_back", steps=200),
    SamplerConfig(kind="ddpm", variance=0.0, steps=200),
    SamplerConfig(kind="ddpm", variance=1.0, steps=200),
    SamplerConfig(kind="dpmpp_2m", steps=60),
]


def _name(config: Config | SamplerConfig) -> str:
    parts = [config.kind]
    if isinstance(config, DiffusionConfig):
        parts.append(config.schedule)
    if isinstance(config, SamplerConfig) and config.is_stochastic:
        parts.append(str(config.variance if config.kind == "ddpm" else config.eta))
    if isinstance(config, FlowConfig):
        parts.append(str(config.shift))
    return "-".join(parts)


def _generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=_name)
@pytest.mark.parametrize("config", OBJECTIVES, ids=_name)
def test_a_mixture_is_recovered(config: Config, sampler: SamplerConfig) -> None:
    points = 3000
    data, objective = three_modes(), build_objective(config)
    found = sample(
        data.denoiser(objective),
        _normal(1, points, 2),
        objective=objective,
        config=sampler,
        generators=_generators(7),
    )[0]
    nearest = torch.cdist(found, data.means).argmin(dim=1)
    for mode, weight in enumerate(data.weights.tolist()):
        mine, std = found[nearest == mode], data.stds[mode].item()
        share = len(mine) / points
        # 4 standard errors of a binomial share, and 0.01 for the start at time 1 (the linear
        # schedule begins with 0.6 % signal that the noise does not hold) and the finite steps.
        assert share == pytest.approx(
            weight, abs=0.01 + 4 * math.sqrt(weight * (1 - weight) / points)
        )
        # 4 standard errors of a mean, and a twentieth of the mode's width for the steps.
        error = (mine.mean(dim=0) - data.means[mode]).abs().max().item()
        assert error < std * (0.05 + 4 / math.sqrt(len(mine)))
        # 4 standard errors of a deviation over two dimensions, and 4 % for the steps.
        spread = (mine - mine.mean(dim=0)).square().mean().sqrt().item()
        assert spread == pytest.approx(std, rel=0.04 + 2 / math.sqrt(len(mine)))


def _gaussian_error(objective: Objective, *, kind: str, steps: int) -> float:
    """Largest distance to the closed-form end of the probability flow of a Gaussian.

    A point at time t is alpha m + sqrt(alpha^2 s^2 + sigma^2) z with z fixed along the flow.
    """
    mean, std = 0.7, 0.5
    config = SamplerConfig.model_validate({"kind": kind, "steps": steps})
    start = grid_of(objective, config=config)[0]
    z = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)[:, None]
    begin = start.alpha * mean + math.hypot(start.alpha * std, start.sigma) * z
    denoise = gaussian(mean=mean, std=std).denoiser(objective)
    found = sample(denoise, begin, objective=objective, config=config)
    return (found - (mean + std * z)).abs().max().item()


@pytest.mark.parametrize("config", [FlowConfig(), DiffusionConfig(kind="v")], ids=_name)
@pytest.mark.parametrize(("kind", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_order_of_convergence(config: Config, kind: str, order: int) -> None:
    objective = build_objective(config)
    coarse = _gaussian_error(objective, kind=kind, steps=320)
    fine = _gaussian_error(objective, kind=kind, steps=1280)
    # Orders lie 1 apart. A grid even in t is uneven in log SNR, which costs dpmpp_2m a factor
    # of log(steps), so 0.16 of its slope between these two.
    assert math.log(coarse / fine, 4) == pytest.approx(order, abs=0.25)


def test_second_step_of_dpmpp_2m_is_the_papers() -> None:
    objective = build_objective(DiffusionConfig(kind="x0", schedule="cosine"))
    exact = three_modes().denoiser(objective)
    seen: list[tuple[Tensor, Tensor]] = []

    def denoise(x_t: Tensor, t_B: Tensor) -> Tensor:
        clean = exact(x_t, t_B)
        seen.append((x_t, clean))
        return clean

    config = SamplerConfig(kind="dpmpp_2m", steps=5)
    sample(denoise, _normal(1, 6, 2), objective=objective, config=config)
    at = grid_of(objective, config=config)
    log_snr = [math.log(moment.alpha / moment.sigma) for moment in at[:4]]
    for step in (2, 3):
        h, before = log_snr[step] - log_snr[step - 1], log_snr[step - 1] - log_snr[step - 2]
        r = before / h
        x, now, last = seen[step - 1][0], seen[step - 1][1], seen[step - 2][1]
        guess = (1 + 1 / (2 * r)) * now - 1 / (2 * r) * last
        wanted = at[step].sigma / at[step - 1].sigma * x
        wanted = wanted - at[step].alpha * math.expm1(-h) * guess
        torch.testing.assert_close(seen[step][0], wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("config", OBJECTIVES, ids=_name)
def test_heun_beats_euler_at_equal_steps(config: Config) -> None:
    objective = build_objective(config)
    euler = _gaussian_error(objective, kind="euler", steps=20)
    assert _gaussian_error(objective, kind="heun", steps=20) < 0.6 * euler


def test_euler_is_ddim_without_noise_and_plain_euler_for_flow() -> None:
    objective = build_objective(FlowConfig())
    denoise, noise = three_modes().denoiser(objective), _normal(1, 50, 2)
    euler = sample(denoise, noise, objective=objective, config=SamplerConfig(steps=10))
    ddim = sample(denoise, noise, objective=objective, config=SamplerConfig(kind="ddim", steps=10))
    by_hand = noise
    for step in range(10):
        t = 1 - step / 10
        by_hand = by_hand - 0.1 * denoise(by_hand, torch.full((1,), t, dtype=torch.float64))
    torch.testing.assert_close(euler, ddim, rtol=0, atol=0)
    # The sampler tells the network the time in float32.
    torch.testing.assert_close(euler, by_hand, rtol=0, atol=1e-5)


def test_ddim_with_full_eta_is_ancestral_with_the_lower_variance() -> None:
    objective = build_objective(DiffusionConfig(kind="v"))
    denoise, noise = three_modes().denoiser(objective), _normal(1, 50, 2)
    ends = [
        sample(denoise, noise, objective=objective, config=config, generators=_generators(3))
        for config in (
            SamplerConfig(kind="ddim", eta=1.0, steps=12),
            SamplerConfig(kind="ddpm", variance=0.0, steps=12),
        )
    ]
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-12)


def test_ancestral_step_is_ddpms_posterior() -> None:
    """One step against equations 6 and 7 of DDPM, written with betas."""
    objective = build_objective(DiffusionConfig(kind="x0", schedule="linear"))
    clean, noise = torch.full((1, 1), 0.3, dtype=torch.float64), _normal(1, 1)
    seen: list[Tensor] = []

    def denoise(x_t: Tensor, t_B: Tensor) -> Tensor:
        seen.append(x_t)
        return clean

    config = SamplerConfig(kind="ddpm", variance=0.0, steps=1000)
    sample(denoise, noise, objective=objective, config=config, generators=_generators(5))
    beta = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    bar = torch.cumprod(1 - beta, dim=0)
    z = torch.randn(1, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    last, before = bar[-1], bar[-2]
    mean = before.sqrt() * beta[-1] / (1 - last) * clean
    mean = mean + (1 - beta[-1]).sqrt() * (1 - before) / (1 - last) * noise
    variance = (1 - before) / (1 - last) * beta[-1]
    torch.testing.assert_close(seen[1], mean + variance.sqrt() * z, rtol=0, atol=1e-12)


def test_upper_variance_is_beta_under_a_preserving_schedule() -> None:
    objective = build_objective(DiffusionConfig(kind="x0", schedule="linear"))
    clean, noise = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    seen: list[Tensor] = []

    def denoise(x_t: Tensor, t_B: Tensor) -> Tensor:
        seen.append(x_t)
        return clean

    config = SamplerConfig(kind="ddpm", variance=1.0, steps=1000)
    sample(denoise, noise, objective=objective, config=config, generators=_generators(5))
    z = torch.randn(1, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    torch.testing.assert_close(seen[1], math.sqrt(2e-2) * z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", OBJECTIVES, ids=_name)
def test_upper_variance_is_exact_for_white_data_at_any_step_size(config: Config) -> None:
    objective = build_objective(config)
    exact = gaussian(mean=0.0, std=1.0).denoiser(objective)
    powers: list[float] = []

    def denoise(x_t: Tensor, t_B: Tensor) -> Tensor:
        powers.append(x_t.square().mean().item())
        return exact(x_t, t_B)

    sampler = SamplerConfig(kind="ddpm", variance=1.0, steps=4)
    noise = _normal(1, 40_000, 1)
    sample(denoise, noise, objective=objective, config=sampler, generators=_generators(3))
    moments = grid_of(objective, config=sampler)[:4]
    # 4 standard errors of the variance of 40k normal draws.
    wanted = [at.alpha**2 + at.sigma**2 for at in moments]
    assert powers == pytest.approx(wanted, rel=4 * math.sqrt(2 / 40_000))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=_name)
def test_a_clip_does_not_depend_on_its_batch_mates(sampler: SamplerConfig) -> None:
    objective = build_objective(FlowConfig())
    denoise, noise = three_modes().denoiser(objective), _normal(3, 5, 2)
    short = sampler.model_copy(update={"steps": 8})
    together = sample(
        denoise, noise, objective=objective, config=short, generators=_generators(1, 2, 3)
    )
    alone = sample(
        denoise, noise[1:2], objective=objective, config=short, generators=_generators(2)
    )
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=0)


def test_rules_that_draw_noise_want_a_generator_per_clip() -> None:
    objective = build_objective(FlowConfig())
    with pytest.raises(ValueError, match="got 1 generators, wanted 2, one per clip"):
        sample(
            three_modes().denoiser(objective),
            _normal(2, 5, 2),
            objective=objective,
            config=SamplerConfig(kind="ddpm", steps=4),
            generators=_generators(1),
        )


def test_steps_count_network_calls() -> None:
    objective = build_objective(FlowConfig())
    exact = three_modes().denoiser(objective)
    calls: list[float] = []

    def denoise(x_t: Tensor, t_B: Tensor) -> Tensor:
        calls.append(t_B[0].item())
        return exact(x_t, t_B)

    for kind, wanted in (("euler", [1.0, 0.5]), ("heun", [1.0, 0.5, 0.5])):
        calls.clear()
        config = SamplerConfig.model_validate({"kind": kind, "steps": 2})
        sample(denoise, _normal(1, 5, 2), objective=objective, config=config)
        assert calls == wanted


def test_one_step_lands_on_the_mean_of_the_data() -> None:
    data, objective = three_modes(), build_objective(FlowConfig())
    config = SamplerConfig(steps=1)
    found = sample(data.denoiser(objective), _normal(1, 5, 2), objective=objective, config=config)
    mean = (data.weights[:, None] * data.means).sum(0)
    torch.testing.assert_close(found, mean.expand_as(found), rtol=0, atol=1e-12)


def test_sampling_takes_over_the_training_shift_unless_told() -> None:
    objective = build_objective(FlowConfig(shift=3.0))
    taken = grid_of(objective, config=SamplerConfig(steps=2))
    told = grid_of(objective, config=SamplerConfig(steps=2, shift=1.0))
    assert [at.t for at in taken] == [1.0, 0.75, 0.0]
    assert [at.t for at in told] == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("config", OBJECTIVES, ids=_name)
def test_grid_ends_clean_under_every_schedule(config: Config) -> None:
    last = grid_of(build_objective(config), config=SamplerConfig(steps=3))[-1]
    assert (last.t, last.alpha, last.sigma) == (0.0, 1.0, 0.0)
