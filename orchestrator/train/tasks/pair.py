"""Training a pair of a text and an image encoder on captions and first frames."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.text.pair_config import SmallPairConfig
from models.text.pair_loss import contrastive_loss
from models.text.small_pair import SmallPair
from orchestrator.data.index import Bucket
from orchestrator.recipe.stage import Stage
from orchestrator.train.exchange import gather_rows
from orchestrator.train.flops import forward_flops, on_meta
from orchestrator.train.tasks.base import Forward, Loss, Micro, Work
from orchestrator.train.tasks.windows import draw_windows, pictures
from orchestrator.train.transfer import on_device, record_on_device
from orchestrator.train.views import FRAMES
from orchestrator.train.weights import load_into

PAIR = "pair"


class PairTask:
    """The contrastive loss over the whole batch, wherever its clips are.

    Source: Radford et al. 2021, arXiv:2103.00020, figure 3.
    """

    def __init__(self, stage: Stage, *, device: torch.device) -> None:
        train = stage.training
        assert isinstance(train.model, SmallPairConfig)
        self._train = train
        self._device = device
        self._pair = SmallPair(train.model)
        self.networks: dict[str, nn.Module] = {PAIR: self._pair}
        config = train.model
        flops = forward_flops(
            on_meta(lambda: SmallPair(config).image_encoder),
            torch.empty(1, 3, *train.clip.size, device="meta"),
        )
        self._work = Work(units=1, flops=3 * flops)

    def work(self, bucket: Bucket) -> Work:
        """One picture, at the view's size."""
        del bucket
        return self._work

    def blocks(self) -> list[nn.Module]:
        """The blocks of both encoders."""
        return self._pair.blocks()

    def is_active(self, network: str, *, step: int) -> bool:
        """The pair always trains."""
        del step
        return network == PAIR

    def loss(self, network: str, engines: Mapping[str, Forward], micro: Micro) -> Loss:
        """The whole batch's loss, the same on every rank."""
        windows = draw_windows(micro, train=self._train)
        x_B3HW = pictures(micro, windows, device=self._device, name=FRAMES)
        picked = micro.random.choice([len(captions) for captions in micro.captions])
        captions = [wordings[index] for wordings, index in zip(micro.captions, picked, strict=True)]
        tokens = record_on_device(self._pair.tokenize(captions), device=self._device)
        text_BE, image_BE, scale = engines[network](tokens, x_B3HW)
        # Clips with the same wordings mean the same: they are no negatives of each other.
        group_B = torch.tensor([_meaning(wordings) for wordings in micro.captions])
        value = contrastive_loss(
            gather_rows(text_BE),
            gather_rows(image_BE),
            scale=scale,
            group_B=gather_rows(on_device(group_B, device=self._device)),
        )
        return Loss(value=value, stats={"loss": value.detach(), "scale": scale.detach()})

    def lr_scale(self, network: str, name: str) -> float:
        """All weights learn alike."""
        del network, name
        return 1.0

    def start_from(self, weights: Mapping[str, Tensor], *, stage: str) -> None:
        """Loads a pair of the same shape."""
        load_into(self._pair, weights, stage=stage)

    def config(self) -> dict[str, Any]:
        """The shape of both encoders."""
        return {
            "model": self._train.model.model_dump(mode="json"),
            "clip": self._train.clip.model_dump(mode="json"),
        }


def _meaning(wordings: tuple[str, ...]) -> int:
    digest = hashlib.blake2b(repr(wordings).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
