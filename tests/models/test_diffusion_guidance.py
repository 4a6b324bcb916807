"""Classifier-free guidance."""

import pytest
import torch
from torch import Tensor

from models.diffusion.config import DiffusionConfig, FlowConfig, GuidanceConfig
from models.diffusion.guidance import guided, rescale_std
from models.diffusion.objective import build_objective


class Network:
    """Outputs x + 1 with a caption and x - 1 without, and notes the batch sizes it saw."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def conditional(self, x: Tensor, t_B: Tensor) -> Tensor:
        self.batches.append(len(x))
        return x + 1

    def both(self, x: Tensor, t_B: Tensor) -> Tensor:
        assert len(t_B) == len(x)
        self.batches.append(len(x))
        captioned, bare = x.chunk(2)
        return torch.cat([captioned + 1, bare - 1])


def _run(config: GuidanceConfig, *, t: float) -> tuple[Tensor, list[int]]:
    network = Network()
    denoise = guided(conditional=network.conditional, both=network.both, config=config)
    return denoise(torch.zeros(3, 4), torch.full((3,), t)), network.batches


def test_scale_one_is_the_conditional_output_in_a_single_batch() -> None:
    output, batches = _run(GuidanceConfig(scale=1.0), t=0.5)
    assert bool((output == 1).all())
    assert batches == [3]


@pytest.mark.parametrize(("scale", "wanted"), [(0.0, -1.0), (2.0, 3.0), (7.0, 13.0)])
def test_scale_goes_from_unconditional_through_conditional(scale: float, wanted: float) -> None:
    output, batches = _run(GuidanceConfig(scale=scale), t=0.5)
    assert bool((output == wanted).all())
    assert batches == [6]


@pytest.mark.parametrize(
    ("t", "is_guided"), [(1.0, False), (0.81, False), (0.75, True), (0.25, True), (0.2, False)]
)
def test_interval_switches_guidance_and_the_second_half_of_the_batch(
    t: float, is_guided: bool
) -> None:
    output, batches = _run(GuidanceConfig(scale=4.0, interval=(0.25, 0.75)), t=t)
    assert bool((output == (7.0 if is_guided else 1.0)).all())
    assert batches == [6 if is_guided else 3]


def test_imagen_video_weight_is_scale_less_one() -> None:
    with_caption, without = torch.randn(2, 5), torch.randn(2, 5)
    w = 6.0
    denoise = guided(
        conditional=lambda x, t_B: with_caption,
        both=lambda x, t_B: torch.cat([with_caption, without]),
        config=GuidanceConfig(scale=w + 1),
    )
    wanted = (1 + w) * with_caption - w * without
    found = denoise(torch.zeros(2, 5), torch.full((2,), 0.5))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_guidance_means_the_same_for_every_prediction() -> None:
    """Guiding outputs equals guiding the clean clips that they stand for."""
    x_t, one, two = torch.randn(3, 2, 8, dtype=torch.float64).unbind()
    t_B = torch.tensor([0.3, 0.3], dtype=torch.float64)
    for config in (FlowConfig(), DiffusionConfig(kind="epsilon"), DiffusionConfig(kind="v")):
        objective = build_objective(config)
        mixed = two + 5.0 * (one - two)
        clean, captioned, bare = (
            objective.predict(output, x_t, t_B).clean for output in (mixed, one, two)
        )
        torch.testing.assert_close(clean, bare + 5.0 * (captioned - bare))


def test_full_rescale_keeps_the_conditional_deviation_of_each_clip() -> None:
    like, x = torch.randn(3, 2, 50), 4.0 * torch.randn(3, 2, 50) + 1.0
    found = rescale_std(x, like=like, share=1.0)
    torch.testing.assert_close(found.flatten(1).std(dim=1), like.flatten(1).std(dim=1))


def test_partial_rescale_is_the_mean_of_both() -> None:
    like, x = torch.randn(3, 50), 4.0 * torch.randn(3, 50)
    full = rescale_std(x, like=like, share=1.0)
    torch.testing.assert_close(rescale_std(x, like=like, share=0.7), 0.7 * full + 0.3 * x)


def test_rescale_acts_inside_guidance() -> None:
    outputs = torch.randn(2, 100)
    denoise = guided(
        conditional=lambda x, t_B: outputs[:1],
        both=lambda x, t_B: outputs,
        config=GuidanceConfig(scale=8.0, rescale=1.0),
    )
    found = denoise(torch.zeros(1, 100), torch.ones(1))
    assert found.std().item() == pytest.approx(outputs[0].std().item(), rel=1e-5)


def test_rescale_of_an_untrained_network_is_zero_and_finite() -> None:
    zeros = torch.zeros(2, 4)
    assert bool((rescale_std(zeros, like=zeros, share=0.7) == 0).all())
