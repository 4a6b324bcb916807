"""Training the prior: captions to image embeddings."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.diffusion.objective import build_objective
from models.make_a_video.prior import Prior
from models.make_a_video.prior_config import PriorConfig
from models.text.pair_states import ImageTextPair
from models.text.states import EMPTY_CAPTION
from orchestrator.data.index import Bucket
from orchestrator.recipe.stage import Stage
from orchestrator.train.flops import prior_flops
from orchestrator.train.tasks.base import Forward, Loss, Micro, Work
from orchestrator.train.tasks.timed import TimedLoss
from orchestrator.train.tasks.windows import draw_windows, pictures
from orchestrator.train.transfer import on_device, record_on_device
from orchestrator.train.weights import load_into

PRIOR = "prior"


class PriorTask:
    """The objective's loss on the embedding of each clip's first frame.

    Source: Ramesh et al. 2022 (DALL-E 2), arXiv:2204.06125, section 2.2.
    """

    def __init__(self, stage: Stage, *, device: torch.device, pair: ImageTextPair) -> None:
        train = stage.training
        self._train = train
        self._device = device
        self._pair = pair
        self._objective = build_objective(train.diffusion)
        self._prior = build_prior(train.model, pair=pair)
        self.networks: dict[str, nn.Module] = {PRIOR: self._prior}
        self._work = Work(units=1, flops=3 * prior_flops(self._prior))

    def work(self, bucket: Bucket) -> Work:
        """One embedding."""
        del bucket
        return self._work

    def blocks(self) -> list[nn.Module]:
        """The prior's blocks."""
        return self._prior.blocks()

    def is_active(self, network: str, *, step: int) -> bool:
        """The prior always trains."""
        del step
        return network == PRIOR

    def loss(self, network: str, engines: Mapping[str, Forward], micro: Micro) -> Loss:
        """Mean over clips of the error of the embedding, at the prior's scale."""
        windows = draw_windows(micro, train=self._train)
        image_BE = self._pair.image(pictures(micro, windows, device=self._device))
        x_BE = self._prior.scale * image_BE
        dropped = (micro.random.uniform() < self._train.caption_drop).tolist()
        picked = micro.random.choice([len(captions) for captions in micro.captions])
        captions = [
            EMPTY_CAPTION if drop else wordings[index]
            for wordings, index, drop in zip(micro.captions, picked, dropped, strict=True)
        ]
        tokens = record_on_device(self._pair.tokenize(captions), device=self._device)
        text = self._pair.text(tokens)
        uniform_B = on_device(micro.random.uniform(), device=self._device)
        t_B = self._objective.sample_time(uniform_B)
        noise = on_device(micro.random.normal(x_BE.shape[1:]), device=self._device)
        noisy = self._objective.corrupt(x_BE, noise, t_B)
        loss_B = self._objective.loss(engines[network](noisy, t_B, text), x_BE, noise, t_B)
        return TimedLoss(loss_B, t_B).mean()

    def lr_scale(self, network: str, name: str) -> float:
        """All weights learn alike."""
        del network, name
        return 1.0

    def start_from(self, weights: Mapping[str, Tensor], *, stage: str) -> None:
        """Loads a prior of the same shape."""
        load_into(self._prior, weights, stage=stage)

    def config(self) -> dict[str, Any]:
        """The prior's shape and the space that it lives in."""
        return {
            "model": self._train.model.model_dump(mode="json"),
            "objective": self._train.objective.model_dump(mode="json"),
            "sampler": self._train.sampler.model_dump(mode="json"),
            "embedding_width": self._prior.embedding_width,
            "text_width": self._prior.text_width,
            "scale": self._prior.scale,
        }


def build_prior(config: object, *, pair: ImageTextPair) -> Prior:
    """The prior of a stage, with fresh weights."""
    assert isinstance(config, PriorConfig)
    return Prior(config, embedding_width=pair.embedding_width, text_width=pair.width)
