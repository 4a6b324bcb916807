"""All networks in turn: their order and shapes, and where they are meanwhile."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models.cascade.chain import Cascade, PriorLink
from models.cascade.model import CaptionedUNet
from models.diffusion.config import SamplerConfig
from models.nn.unet import SpaceTimeUNet
from tests.models.links import ENLARGING, STARTING, link
from tests.models.priors import small_chain

PROMPTS, SEEDS = ["a red three", "nine"], [1, 2]
ANCESTRAL = SamplerConfig(kind="ddpm", steps=4)


def test_at_most_one_network_is_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    resident: list[CaptionedUNet] = []
    sampled: list[SpaceTimeUNet] = []
    forward = SpaceTimeUNet.forward

    def moved(model: CaptionedUNet, device: torch.device) -> CaptionedUNet:
        if device.type == "cuda":
            resident.append(model)
        elif model in resident:
            resident.remove(model)
        return model

    def watched(unet: SpaceTimeUNet, *args: Any) -> Tensor:
        assert [model.unet for model in resident] == [unet]
        if unet not in sampled:
            sampled.append(unet)
        return forward(unet, *args)

    monkeypatch.setattr(CaptionedUNet, "to", moved)
    monkeypatch.setattr(SpaceTimeUNet, "forward", watched)
    links = (
        link(STARTING, "start", frames=2, side=8),
        link(ENLARGING, "time", frames=4, side=8, factor=2),
        link(ENLARGING, "space", frames=4, side=16, factor=2),
    )
    Cascade(links=links, device=torch.device("cuda")).sample(PROMPTS, seeds=SEEDS)
    assert sampled == [one.model.unet for one in links]
    assert resident == []


def test_networks_draw_on_where_the_prior_has_stopped() -> None:
    prior = PriorLink(small_chain(), ANCESTRAL)
    request = Cascade(links=(), prior=prior).request(PROMPTS, seeds=SEEDS)
    drawn_from = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    fresh = [one.get_state() for one in drawn_from]
    embedding_BE = prior.sample(PROMPTS, generators=drawn_from)
    assert request.embedding_BE is not None
    assert torch.equal(request.embedding_BE, embedding_BE)
    for found, unused, used in zip(request.generators, fresh, drawn_from, strict=True):
        assert torch.equal(found.get_state(), used.get_state())
        assert not torch.equal(found.get_state(), unused)


def test_an_embedding_and_what_follows_do_not_depend_on_batch_mates() -> None:
    cascade = Cascade(links=(), prior=PriorLink(small_chain(), ANCESTRAL))
    both = cascade.request(PROMPTS, seeds=SEEDS)
    alone = cascade.request(PROMPTS[1:], seeds=SEEDS[1:])
    assert both.embedding_BE is not None
    assert alone.embedding_BE is not None
    torch.testing.assert_close(both.embedding_BE[1:], alone.embedding_BE, rtol=0, atol=1e-5)
    assert torch.equal(both.generators[1].get_state(), alone.generators[0].get_state())
