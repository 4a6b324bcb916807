"""All networks in turn: their order and shapes, and where they are meanwhile."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models.cascade.chain import Cascade
from models.cascade.model import CaptionedUNet
from models.nn.unet import SpaceTimeUNet
from tests.models.links import ENLARGING, STARTING, link

PROMPTS, SEEDS = ["a red three", "nine"], [1, 2]


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
