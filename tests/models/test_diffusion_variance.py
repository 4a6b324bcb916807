"""Learned variance: its loss against the papers' formulas, and its use in sampling."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from models.diffusion.config import DiffusionConfig, FlowConfig, GuidanceConfig, SamplerConfig
from models.diffusion.guidance import guided
from models.diffusion.objective import build_objective
from models.diffusion.samplers import sample
from models.diffusion.variance import discretised_nll
from tests.models.gaussians import three_modes

SHAPE = (5, 2, 2, 2, 2)  # one clip per step below
STEPS = [1, 2, 3, 500, 1000]  # of the chain of 1000
LEARNED = [
    DiffusionConfig(kind=kind, schedule=schedule, learned_variance=True)
    for kind in ("epsilon", "x0")
    for schedule in ("cosine", "linear", "zero_snr")
    if (kind, schedule) != ("epsilon", "zero_snr")
]


def _name(config: DiffusionConfig) -> str:
    return f"{config.kind}-{config.schedule}"


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _pixels(*shape: int) -> Tensor:
    """Levels of 8 bits in [-1, 1], some of them black and white."""
    levels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(3))
    levels.view(-1)[::7] = 0
    levels.view(-1)[3::7] = 255
    return levels.double() / 127.5 - 1


def _alpha_bars(schedule: str) -> list[float]:
    """Products of 1 - beta; entry n is step n."""
    if schedule == "cosine":
        b = math.atan(math.exp(-10.0))
        a = math.atan(math.exp(10.0)) - b
        return [math.cos(a * n / 1000 + b) ** 2 for n in range(1001)]
    bars = [1.0]
    for n in range(1000):
        bars.append(bars[-1] * (1 - (1e-4 + (2e-2 - 1e-4) * n / 999)))
    return bars


def _term(x: float, x_t: float, clean: float, channel: float, n: int, bars: list[float]) -> float:
    """One term of the bound in nats: equations 5 and 6 of Nichol and Dhariwal, 13 of Ho et al."""

    def beta(step: int) -> float:
        return 1 - bars[step] / bars[step - 1]

    def posterior(step: int) -> float:
        return (1 - bars[step - 1]) / (1 - bars[step]) * beta(step)

    lowest = posterior(max(n, 2))
    v = (channel + 1) / 2
    variance = math.exp(v * math.log(beta(n)) + (1 - v) * math.log(lowest))
    if n == 1:

        def below(edge: float) -> float:
            return 0.5 * math.erfc((clean - edge) / math.sqrt(2 * variance))

        lower = 0.0 if x == -1.0 else below(x - 1 / 255)
        return -math.log((1.0 if x == 1.0 else below(x + 1 / 255)) - lower)
    on_clean = math.sqrt(bars[n - 1]) * beta(n) / (1 - bars[n])
    on_noisy = math.sqrt(1 - beta(n)) * (1 - bars[n - 1]) / (1 - bars[n])
    mean_q, mean_p = on_clean * x + on_noisy * x_t, on_clean * clean + on_noisy * x_t
    ratio = (lowest + (mean_q - mean_p) ** 2) / variance
    return 0.5 * (math.log(variance / lowest) + ratio - 1)


@pytest.mark.parametrize("kind", ["epsilon", "x0"])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_loss_equals_a_slow_reference_on_the_grid(kind: str, schedule: str) -> None:
    config = DiffusionConfig.model_validate(
        {"kind": kind, "schedule": schedule, "learned_variance": True}
    )
    objective, bars = build_objective(config), _alpha_bars(schedule)
    x, noise, channel = _pixels(*SHAPE), _normal(*SHAPE), _normal(*SHAPE, seed=1)
    t_B = torch.tensor(STEPS, dtype=torch.float64) / 1000
    x_t = objective.corrupt(x, noise, t_B)
    # At step 1 a pixel's level is worth telling only if the mean is near it.
    miss = 0.003 if kind == "x0" else 0.3
    prediction = objective.target(x, noise, t_B) + miss * _normal(*SHAPE, seed=2)
    found = objective.loss(torch.cat([prediction, channel], dim=1), x, noise, t_B)
    for b, n in enumerate(STEPS):
        root, spread = math.sqrt(bars[n]), math.sqrt(1 - bars[n])
        terms, squares = [], []
        rows = torch.stack([x[b], x_t[b], prediction[b], channel[b], noise[b]], dim=-1)
        for pixel, noisy, output, share, drawn in rows.view(-1, 5).tolist():
            clean = (noisy - spread * output) / root if kind == "epsilon" else output
            squares.append((output - (drawn if kind == "epsilon" else pixel)) ** 2)
            terms.append(_term(pixel, noisy, clean, share, n, bars))
        bits = 1000 * sum(terms) / len(terms) / math.log(2)
        wanted = sum(squares) / len(squares) + 0.001 * bits
        # Float32, and the reference's own 1 - bar at step 1 keeps 10 digits.
        assert found[b].item() == pytest.approx(wanted, rel=2e-4), n


def test_vlb_weight_scales_the_bound_alone() -> None:
    x, noise, output = _pixels(*SHAPE), _normal(*SHAPE), _normal(5, 4, 2, 2, 2, seed=1)
    t_B = torch.linspace(0.1, 0.9, 5)
    plain = build_objective(DiffusionConfig(kind="x0")).loss(output[:, :2], x, noise, t_B)
    once, thrice = (
        build_objective(DiffusionConfig(kind="x0", learned_variance=True, vlb_weight=weight)).loss(
            output, x, noise, t_B
        )
        for weight in (0.001, 0.003)
    )
    torch.testing.assert_close(thrice - plain, 3 * (once - plain), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", LEARNED, ids=_name)
def test_gradient_of_the_bound_reaches_the_variance_channels_only(config: DiffusionConfig) -> None:
    x, noise = _pixels(*SHAPE), _normal(*SHAPE)
    t_B = torch.tensor([0.0005, 0.0015, 0.3, 0.7, 0.99])
    output = _normal(5, 4, 2, 2, 2, seed=1).requires_grad_()
    build_objective(config).loss(output, x, noise, t_B).sum().backward()
    without = config.model_copy(update={"learned_variance": False})
    prediction = output.detach()[:, :2].requires_grad_()
    build_objective(without).loss(prediction, x, noise, t_B).sum().backward()
    assert output.grad is not None
    assert prediction.grad is not None
    torch.testing.assert_close(output.grad[:, :2], prediction.grad, rtol=0, atol=0)
    assert bool((output.grad[:, 2:].abs().flatten(1).sum(dim=1) > 0).all())


@pytest.mark.parametrize("config", LEARNED, ids=_name)
def test_loss_and_gradient_are_finite_at_any_time_and_for_bad_predictions(
    config: DiffusionConfig,
) -> None:
    times = [0.0, 1e-7, 5e-4, 1e-3, 1.00001e-3, 1.5e-3, 2e-3, 0.5, 0.999, 1.0]
    x, noise = _pixels(10, 2, 4), _normal(10, 2, 4)
    output = (10 * _normal(10, 4, 4, seed=1)).float().requires_grad_()
    loss = build_objective(config).loss(output, x, noise, torch.tensor(times))
    loss.sum().backward()
    assert output.grad is not None
    assert bool(loss.isfinite().all())
    assert bool(output.grad.isfinite().all())


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_bound_is_least_at_the_true_variance(share: float) -> None:
    """The best Gaussian for a mean that is off by d has variance lower + d^2."""
    objective = build_objective(DiffusionConfig(kind="x0", learned_variance=True))
    t_B = torch.tensor([0.004, 0.003], dtype=torch.float64)
    shares = objective.coefficients(t_B)
    (a, b), (s, r) = shares.alpha_B.tolist(), shares.sigma_B.tolist()
    upper = s**2 - (a / b * r) ** 2
    lower = (r / s) ** 2 * upper
    best = lower ** (1 - share) * upper**share
    off = math.sqrt(best - lower) / (b * upper / s**2)
    x = torch.zeros(1, 1, 1)

    def slope(at: float) -> float:
        channel = torch.full((1, 1, 1), 2 * at - 1, requires_grad=True)
        output = torch.cat([x + off, channel], dim=1)
        loss_B = objective.loss(output, x, x, t_B[:1])
        return torch.autograd.grad(loss_B.sum(), channel)[0].item()

    below, above = slope(share - 0.1), slope(share + 0.1)
    assert below < 0 < above
    assert abs(slope(share)) < 1e-4 * min(above, -below)  # float32


def test_given_frames_do_not_count_in_the_bound() -> None:
    objective = build_objective(DiffusionConfig(kind="epsilon", learned_variance=True))
    x, noise, output = _pixels(*SHAPE), _normal(*SHAPE), _normal(5, 4, 2, 2, 2, seed=1)
    t_B, weight = torch.linspace(0.0, 0.9, 5), torch.ones(5, 1, 2, 1, 1)
    weight[:, :, 0] = 0.0
    moved = output.clone()
    moved[:, :, 0] += 1.0
    first, second = (objective.loss(one, x, noise, t_B, weight=weight) for one in (output, moved))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("std", [0.001, 0.02, 0.5])
@pytest.mark.parametrize("mean", [-1.3, 0.0, 0.71])
def test_probabilities_of_all_levels_sum_to_one(mean: float, std: float) -> None:
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    log_variance = torch.full_like(levels, 2 * math.log(std))
    found = discretised_nll(levels, levels - mean, log_variance=log_variance)
    assert torch.exp(-found).sum().item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("config", LEARNED, ids=_name)
def test_predict_splits_the_channels(config: DiffusionConfig) -> None:
    output, x_t = _normal(5, 4, 2, 2, 2), _normal(*SHAPE, seed=1)
    t_B = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    found = build_objective(config).predict(output, x_t, t_B)
    plain = build_objective(config.model_copy(update={"learned_variance": False}))
    wanted = plain.predict(output[:, :2], x_t, t_B)
    torch.testing.assert_close(found.clean, wanted.clean, rtol=0, atol=0)
    torch.testing.assert_close(found.noise, wanted.noise, rtol=0, atol=0)
    assert found.variance_share is not None
    torch.testing.assert_close(found.variance_share, (output[:, 2:] + 1) / 2, rtol=0, atol=0)
    assert wanted.variance_share is None


def _sampled(sampler: SamplerConfig, *, channel: float | None) -> Tensor:
    """Points of the mixture, by a network that learnt one share everywhere, or none."""
    plain = build_objective(DiffusionConfig(kind="epsilon"))
    objective = build_objective(DiffusionConfig(kind="epsilon", learned_variance=True))
    exact = three_modes().denoiser(plain)

    def learned(x_t: Tensor, t_B: Tensor) -> Tensor:
        output = exact(x_t, t_B)
        return torch.cat([output, torch.full_like(output, channel or 0.0)], dim=1)

    return sample(
        exact if channel is None else learned,
        _normal(2, 50, 2),
        objective=plain if channel is None else objective,
        config=sampler,
        generators=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
    )


@pytest.mark.parametrize(("channel", "variance"), [(-1.0, 0.0), (0.0, 0.5), (1.0, 1.0)])
def test_ddpm_draws_with_the_learned_variance(channel: float, variance: float) -> None:
    found = _sampled(SamplerConfig(kind="ddpm", steps=12), channel=channel)
    wanted = _sampled(SamplerConfig(kind="ddpm", steps=12, variance=variance), channel=None)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["euler", "heun", "ddim", "ddim_back", "dpmpp_2m"])
def test_other_samplers_ignore_the_learned_variance(kind: str) -> None:
    sampler = SamplerConfig.model_validate({"kind": kind, "steps": 6})
    found, wanted = _sampled(sampler, channel=0.7), _sampled(sampler, channel=None)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_sampler_must_not_set_a_variance_that_is_learned() -> None:
    with pytest.raises(ValueError, match=r"variance=0.5 of the sampler has no effect"):
        _sampled(SamplerConfig(kind="ddpm", steps=3, variance=0.5), channel=0.0)


def test_guidance_leaves_the_variance_of_the_conditional_output() -> None:
    captioned, bare = _normal(2, 6, 5), _normal(2, 6, 5, seed=1)
    denoise = guided(
        conditional=lambda x, t_B: captioned,
        both=lambda x, t_B: torch.cat([captioned, bare]),
        config=GuidanceConfig(scale=4.0, rescale=0.5),
    )
    prediction_only = guided(
        conditional=lambda x, t_B: captioned[:, :3],
        both=lambda x, t_B: torch.cat([captioned[:, :3], bare[:, :3]]),
        config=GuidanceConfig(scale=4.0, rescale=0.5),
    )
    x, t_B = torch.zeros(2, 3, 5, dtype=torch.float64), torch.full((2,), 0.5)
    found = denoise(x, t_B)
    torch.testing.assert_close(found[:, 3:], captioned[:, 3:], rtol=0, atol=0)
    torch.testing.assert_close(found[:, :3], prediction_only(x, t_B), rtol=0, atol=0)


def test_an_output_without_variance_channels_is_refused() -> None:
    objective = build_objective(DiffusionConfig(kind="epsilon", learned_variance=True))
    x, t_B = torch.zeros(2, 3, 4), torch.full((2,), 0.5)
    message = r"prediction has shape \(2, 3, 4\), wanted \(2, 6, 4\)"
    with pytest.raises(ValueError, match=message):
        objective.loss(x, x, x, t_B)
    with pytest.raises(ValueError, match=message):
        objective.predict(x, x, t_B)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "v", "learned_variance": true}', "learned_variance=true with kind=v"),
        ('{"kind": "x0", "vlb_weight": 0.5}', "vlb_weight=0.5 belongs to learned_variance=true"),
    ],
)
def test_options_without_effect_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DiffusionConfig.model_validate_json(text)


def test_output_channels_are_doubled_for_a_learned_variance_only() -> None:
    assert DiffusionConfig(kind="x0", learned_variance=True).output_channels(3) == 6
    assert DiffusionConfig(kind="x0").output_channels(3) == 3
    assert FlowConfig().output_channels(3) == 3
