"""Targets, losses and conversions against slow references."""

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from models.diffusion.config import (
    DiffusionConfig,
    FlowConfig,
    GuidanceConfig,
    ObjectiveConfig,
    SamplerConfig,
)
from models.diffusion.objective import build_objective

Config = FlowConfig | DiffusionConfig
OBJECTIVES: list[Config] = [
    FlowConfig(),
    *[
        DiffusionConfig(kind=kind, schedule=schedule)
        for kind in ("epsilon", "x0", "v")
        for schedule in ("cosine", "linear", "zero_snr")
        if (kind, schedule) != ("epsilon", "zero_snr")
    ],
]
SHAPE = (6, 2, 3, 4, 4)


def _name(config: Config) -> str:
    return config.kind if isinstance(config, FlowConfig) else f"{config.kind}-{config.schedule}"


def _clips(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("config", OBJECTIVES, ids=_name)
def test_prediction_of_the_target_returns_clip_and_noise(config: Config) -> None:
    objective = build_objective(config)
    x, noise = _clips(*SHAPE), _clips(*SHAPE, seed=1)
    t_B = torch.tensor([0.01, 0.2, 0.5, 0.7, 0.95, 0.99], dtype=torch.float64)
    x_t = objective.corrupt(x, noise, t_B)
    found = objective.predict(objective.target(x, noise, t_B), x_t, t_B)
    # Division by alpha or sigma, at least 7e-3 at these times, multiplies float64 roundings.
    torch.testing.assert_close(found.clean, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.noise, noise, rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", OBJECTIVES, ids=_name)
def test_conversion_is_exact_at_pure_noise(config: Config) -> None:
    objective = build_objective(config)
    x, noise = _clips(1, 2, 1, 4, 4), _clips(1, 2, 1, 4, 4, seed=1)
    t_B = torch.ones(1, dtype=torch.float64)
    x_t = objective.corrupt(x, noise, t_B)
    found = objective.predict(objective.target(x, noise, t_B), x_t, t_B)
    # alpha(1) of epsilon's schedules is 4.5e-5 (cosine) and 6.3e-3 (linear).
    torch.testing.assert_close(found.clean, x, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.noise, noise, rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", OBJECTIVES, ids=_name)
def test_clip_and_noise_add_up_to_the_input_for_any_output(config: Config) -> None:
    objective = build_objective(config)
    output, x_t = _clips(*SHAPE), _clips(*SHAPE, seed=1)
    t_B = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    found = objective.predict(output, x_t, t_B)
    torch.testing.assert_close(
        objective.corrupt(found.clean, found.noise, t_B), x_t, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("config", OBJECTIVES, ids=_name)
def test_express_undoes_predict(config: Config) -> None:
    objective = build_objective(config)
    output, x_t = _clips(*SHAPE), _clips(*SHAPE, seed=1)
    t_B = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    found = objective.express(objective.predict(output, x_t, t_B).clean, x_t, t_B)
    # Through the clean clip an output is scaled by alpha/sigma and back: up to 60 either way.
    torch.testing.assert_close(found, output, rtol=0, atol=1e-11)


@pytest.mark.parametrize("source", OBJECTIVES[1:], ids=_name)
def test_every_parameterisation_of_one_schedule_means_the_same_clip(
    source: DiffusionConfig,
) -> None:
    x_t, output = _clips(*SHAPE, seed=1), _clips(*SHAPE)
    t_B = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    first = build_objective(source)
    clean = first.predict(output, x_t, t_B).clean
    kinds = ("x0", "v") if source.schedule == "zero_snr" else ("x0", "v", "epsilon")
    for kind in kinds:
        other = build_objective(DiffusionConfig(kind=kind, schedule=source.schedule))
        again = other.predict(other.express(clean, x_t, t_B), x_t, t_B)
        torch.testing.assert_close(again.clean, clean, rtol=1e-10, atol=1e-10)


def test_predict_of_bfloat16_computes_in_float32() -> None:
    objective = build_objective(FlowConfig())
    half = torch.ones(1, 1, dtype=torch.bfloat16)
    assert objective.predict(half, half, torch.tensor([0.5])).clean.dtype == torch.float32


def test_epsilon_under_zero_snr_is_refused() -> None:
    with pytest.raises(ValidationError, match="kind=epsilon with schedule=zero_snr"):
        DiffusionConfig(kind="epsilon", schedule="zero_snr")


def test_flow_loss_equals_a_slow_reference() -> None:
    objective = build_objective(FlowConfig())
    x, noise = _clips(2, 1, 2, 2, 2), _clips(2, 1, 2, 2, 2, seed=1)
    output, t_B = _clips(2, 1, 2, 2, 2, seed=2), torch.tensor([0.1, 0.8])
    wanted = []
    for b in range(2):
        cells = zip(
            output[b].flatten().tolist(),
            x[b].flatten().tolist(),
            noise[b].flatten().tolist(),
            strict=True,
        )
        wanted.append(sum((out - (n - clean)) ** 2 for out, clean, n in cells) / 8)
    found = objective.loss(output, x, noise, t_B)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(wanted, rel=1e-6)  # float32


@pytest.mark.parametrize("config", OBJECTIVES, ids=_name)
def test_loss_is_the_squared_distance_to_the_target(config: Config) -> None:
    objective = build_objective(config)
    x, noise, output = _clips(*SHAPE), _clips(*SHAPE, seed=1), _clips(*SHAPE, seed=2)
    t_B = torch.linspace(0.0, 1.0, 6, dtype=torch.float64)
    shares = objective.coefficients(t_B)
    for b in range(6):
        alpha, sigma = shares.alpha_B[b].item(), shares.sigma_B[b].item()
        target = {
            "flow": noise[b] - x[b],
            "epsilon": noise[b],
            "x0": x[b],
            "v": alpha * noise[b] - sigma * x[b],
        }[config.kind]
        wanted = (output[b] - target).square().mean().item()
        found = objective.loss(output, x, noise, t_B)[b].item()
        assert found == pytest.approx(wanted, rel=1e-5)  # float32 mean of 96 terms


def test_flow_corrupts_along_the_line() -> None:
    objective = build_objective(FlowConfig())
    x, noise = _clips(2, 3), _clips(2, 3, seed=1)
    x_t = objective.corrupt(x, noise, torch.tensor([0.25, 1.0], dtype=torch.float64))
    torch.testing.assert_close(x_t[0], 0.75 * x[0] + 0.25 * noise[0])
    torch.testing.assert_close(x_t[1], noise[1], rtol=0, atol=0)


def test_given_frames_do_not_count_in_the_loss() -> None:
    objective = build_objective(FlowConfig())
    x, noise, output = (_clips(2, 2, 3, 4, 4, seed=seed) for seed in range(3))
    t_B = torch.tensor([0.3, 0.6])
    weight = torch.ones(2, 1, 3, 1, 1)
    weight[0, :, 0] = 0.0
    found = objective.loss(output, x, noise, t_B, weight=weight)
    error = (output - (noise - x)).square()
    assert found[0].item() == pytest.approx(error[0, :, 1:].mean().item(), rel=1e-5)
    assert found[1].item() == pytest.approx(error[1].mean().item(), rel=1e-5)


def test_a_clip_that_is_given_whole_has_no_loss() -> None:
    objective = build_objective(FlowConfig())
    x, noise, output = (_clips(1, 2, 3, 4, 4, seed=seed) for seed in range(3))
    weight = torch.zeros(1, 1, 3, 1, 1)
    assert objective.loss(output, x, noise, torch.tensor([0.3]), weight=weight).tolist() == [0.0]


@pytest.mark.parametrize("kind", ["epsilon", "x0", "v"])
def test_min_snr_weighs_the_clean_clips_error(kind: str) -> None:
    config = TypeAdapter(ObjectiveConfig).validate_python(
        {"kind": kind, "schedule": "cosine", "min_snr_gamma": 5.0}
    )
    objective = build_objective(config)
    x, noise, output = (_clips(6, 4, seed=seed) for seed in range(3))
    t_B = torch.tensor([0.05, 0.2, 0.27, 0.4, 0.6, 0.9], dtype=torch.float64)
    found = objective.loss(output, x, noise, t_B)
    clean = objective.predict(output, objective.corrupt(x, noise, t_B), t_B).clean
    for b, t in enumerate(t_B):
        shares = objective.coefficients(t[None])
        snr = (shares.alpha_B / shares.sigma_B).square().item()
        wanted = min(snr, 5.0) * (clean[b] - x[b]).square().mean().item()
        assert found[b].item() == pytest.approx(wanted, rel=1e-4)  # float32 loss


@pytest.mark.parametrize("kind", ["x0", "v"])
def test_min_snr_is_finite_at_both_ends_of_zero_snr(kind: str) -> None:
    config = TypeAdapter(ObjectiveConfig).validate_python(
        {"kind": kind, "schedule": "zero_snr", "min_snr_gamma": 5.0}
    )
    x, noise, output = (_clips(2, 4, seed=seed) for seed in range(3))
    loss = build_objective(config).loss(output, x, noise, torch.tensor([0.0, 1.0]))
    assert all(math.isfinite(value) for value in loss.tolist())
    assert loss[1].item() == 0.0  # no signal, no weight


def test_times_of_flow_follow_the_draws() -> None:
    uniform = torch.tensor([0.0, 0.25, 0.5, 0.75])
    plain = build_objective(FlowConfig(time_sampling="uniform")).sample_time(uniform)
    assert plain.tolist() == [0.0, 0.25, 0.5, 0.75]
    shifted = build_objective(FlowConfig(time_sampling="uniform", shift=3.0)).sample_time(uniform)
    assert shifted.tolist() == pytest.approx([0.0, 0.5, 0.75, 0.9])
    logits = build_objective(FlowConfig(mean=1.0, std=2.0)).sample_time(uniform[2:]).logit()
    assert logits.tolist() == pytest.approx([1.0, 1.0 + 2.0 * 0.67449], abs=1e-4)


def test_one_time_per_clip_is_wanted() -> None:
    objective = build_objective(FlowConfig())
    with pytest.raises(ValueError, match=r"t_B has shape \(1,\), wanted \(2,\)"):
        objective.corrupt(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(1))


def test_prediction_of_another_shape_is_refused() -> None:
    objective = build_objective(FlowConfig())
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"prediction has shape \(2, 6\), wanted \(2, 3\)"):
        objective.loss(torch.zeros(2, 6), x, x, torch.zeros(2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "ddim", "variance": 0.5}', "variance=0.5 belongs to kind=ddpm"),
        ('{"kind": "ddpm", "eta": 0.5}', "eta=0.5 belongs to kind=ddim"),
        ('{"steps": 0}', "greater than 0"),
        ('{"guidance": {"interval": [0.9, 0.1]}}', "wanted 0 <= low < high <= 1"),
    ],
)
def test_sampler_options_without_effect_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SamplerConfig.model_validate_json(text)


def test_uniform_times_take_no_moments() -> None:
    with pytest.raises(ValidationError, match="belong to time_sampling=logit_normal"):
        FlowConfig(time_sampling="uniform", mean=1.0)


def test_objective_of_a_recipe_is_told_apart_by_kind() -> None:
    adapter = TypeAdapter[FlowConfig | DiffusionConfig](ObjectiveConfig)
    assert isinstance(adapter.validate_json('{"kind": "flow", "shift": 3.0}'), FlowConfig)
    assert isinstance(adapter.validate_json('{"kind": "v"}'), DiffusionConfig)
    with pytest.raises(ValidationError, match="kind"):
        adapter.validate_json('{"kind": "score"}')


def test_guidance_interval_reads_from_json() -> None:
    found = GuidanceConfig.model_validate_json('{"scale": 4.0, "interval": [0.1, 0.8]}')
    assert found.interval == (0.1, 0.8)
