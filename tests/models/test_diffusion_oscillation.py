"""A guidance scale that alternates between sampling steps."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from models.diffusion.config import FlowConfig, GuidanceConfig, OscillationConfig, SamplerConfig
from models.diffusion.guidance import guided
from models.diffusion.objective import build_objective
from models.diffusion.samplers import grid_of, sample

HIGH = 15.0


def _config(*, low: float = 1.0, constant_share: float = 0.2) -> GuidanceConfig:
    swing = OscillationConfig(low=low, constant_share=constant_share)
    return GuidanceConfig(scale=HIGH, oscillation=swing)


def _scales(guidance: GuidanceConfig, sampler: SamplerConfig) -> tuple[list[float], list[int]]:
    """The scale and the batch of every call of the network while a sampler runs."""
    objective = build_objective(FlowConfig())
    scales: list[float] = []
    batches: list[int] = []

    def conditional(x: Tensor, t_B: Tensor) -> Tensor:
        batches.append(len(x))
        return torch.ones_like(x)

    def both(x: Tensor, t_B: Tensor) -> Tensor:
        batches.append(len(x))
        captioned, bare = x.chunk(2)
        return torch.cat([torch.ones_like(captioned), torch.zeros_like(bare)])

    denoise = guided(
        conditional=conditional,
        both=both,
        config=guidance,
        times=[at.t for at in grid_of(objective, config=sampler)[:-1]],
    )

    def noted(x: Tensor, t_B: Tensor) -> Tensor:
        output = denoise(x, t_B)  # 0 + scale * (1 - 0)
        scales.append(output.flatten()[0].item())
        return output

    sample(noted, torch.zeros(1, 2), objective=objective, config=sampler)
    return scales, batches


@pytest.mark.parametrize("shift", [0.3, 1.0, 12.0])
def test_scale_is_high_for_its_share_and_then_alternates(shift: float) -> None:
    scales, batches = _scales(_config(), SamplerConfig(steps=10, shift=shift))
    assert scales == [HIGH, HIGH, HIGH, 1, HIGH, 1, HIGH, 1, HIGH, 1]
    assert batches == [2, 2, 2, 1, 2, 1, 2, 1, 2, 1]


@pytest.mark.parametrize(
    ("share", "wanted"),
    [(0.0, [HIGH, 3, HIGH, 3]), (0.5, [HIGH, HIGH, HIGH, 3]), (1.0, [HIGH] * 4)],
)
def test_share_and_lower_scale_are_the_configs(share: float, wanted: list[float]) -> None:
    scales, _ = _scales(_config(low=3.0, constant_share=share), SamplerConfig(steps=4))
    assert scales == wanted


def test_every_step_of_a_long_grid_is_told_apart() -> None:
    """The network's time is float32; at this shift the first steps are 5e-5 apart."""
    sampler = SamplerConfig(steps=1000, shift=20.0)
    scales, _ = _scales(_config(constant_share=0.0), sampler)
    assert scales == [HIGH, 1.0] * 500


def test_heuns_second_call_has_the_scale_of_the_step_it_looks_at() -> None:
    scales, _ = _scales(_config(constant_share=0.0), SamplerConfig(kind="heun", steps=3))
    assert scales == [HIGH, 1, 1, HIGH, HIGH]


def test_an_equal_lower_scale_is_plain_guidance() -> None:
    objective = build_objective(FlowConfig())
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    sampler = SamplerConfig(steps=7)
    ends = []
    for guidance in (_config(low=HIGH), GuidanceConfig(scale=HIGH)):
        denoise = guided(
            conditional=lambda x, t_B: 0.5 * x,
            both=lambda x, t_B: torch.cat([0.5 * x[: len(x) // 2], 0.4 * x[len(x) // 2 :]]),
            config=guidance,
            times=[at.t for at in grid_of(objective, config=sampler)[:-1]],
        )
        ends.append(sample(denoise, noise, objective=objective, config=sampler))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


def test_the_lower_scale_is_the_papers_unless_said_otherwise() -> None:
    # Imagen Video, arXiv:2210.02303, section 2.6.2: a weight of 1, a scale of 2.
    swing = GuidanceConfig.model_validate_json('{"scale": 16.0, "oscillation": {}}')
    assert {swing.scale_at(step, steps=10) for step in range(10)} == {16.0, 2.0}


def test_steps_must_be_known() -> None:
    with pytest.raises(ValueError, match=r"guidance.oscillation counts sampling steps"):
        guided(conditional=lambda x, t_B: x, both=lambda x, t_B: x, config=_config())


@pytest.mark.parametrize(
    "text",
    ['{"scale": 1.0, "oscillation": {}}', '{"scale": 2.0, "oscillation": {"low": 3.0}}'],
)
def test_a_lower_scale_above_the_scale_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="wanted scale above 1 and low at most scale"):
        GuidanceConfig.model_validate_json(text)
