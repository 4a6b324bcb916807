"""Training the video autoencoder, with or without its discriminator."""

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from models.sora.autoencoder import VideoAutoencoder
from models.sora.autoencoder_config import AutoencoderConfig, AutoencoderLossConfig
from models.sora.autoencoder_loss import AutoencoderLoss
from models.sora.discriminator import PatchDiscriminator3D
from orchestrator.data.index import Bucket
from orchestrator.recipe.train import Train
from orchestrator.train.flops import forward_flops, on_meta
from orchestrator.train.pixels import as_pixels
from orchestrator.train.tasks.base import Forward, Loss, Micro, Work
from orchestrator.train.transfer import on_device
from orchestrator.train.weights import load_into

AUTOENCODER = "autoencoder"
DISCRIMINATOR = "discriminator"


class AutoencoderTask:
    """Reconstruction, KL and, from a set step on, an adversarial term."""

    def __init__(self, train: Train, *, device: torch.device) -> None:
        assert isinstance(train.model, AutoencoderConfig)
        assert isinstance(train.objective, AutoencoderLossConfig)
        self._model = train.model
        self._objective = train.objective
        self._device = device
        self._loss = AutoencoderLoss(train.objective).to(device)
        self._reconstruction = torch.empty(0)
        self.networks: dict[str, nn.Module] = {AUTOENCODER: VideoAutoencoder(train.model)}
        if train.objective.adversarial is not None:
            self.networks[DISCRIMINATOR] = PatchDiscriminator3D(train.objective.adversarial)
        self._work: dict[Bucket, Work] = {}

    @property
    def _autoencoder(self) -> VideoAutoencoder:
        network = self.networks[AUTOENCODER]
        assert isinstance(network, VideoAutoencoder)
        return network

    def work(self, bucket: Bucket) -> Work:
        """The autoencoder's; the discriminator's is not counted."""
        if bucket not in self._work:
            latent = self._autoencoder.latent_shape(*bucket)
            flops = forward_flops(
                on_meta(partial(VideoAutoencoder, self._model)),
                torch.empty(1, 3, *bucket, device="meta"),
                torch.empty(1, self._model.latent_channels, *latent, device="meta"),
            )
            self._work[bucket] = Work(units=prod(latent), flops=3 * flops)
        return self._work[bucket]

    def blocks(self) -> list[nn.Module]:
        """The autoencoder's residual blocks."""
        return self._autoencoder.blocks()

    def is_active(self, network: str, *, step: int) -> bool:
        """The discriminator rests until its start step."""
        adversarial = self._objective.adversarial
        return network == AUTOENCODER or (
            adversarial is not None and step >= adversarial.start_step
        )

    def loss(self, network: str, engines: Mapping[str, Forward], micro: Micro) -> Loss:
        """The generator's loss, or the discriminator's on the reconstruction just made."""
        frames = 1 if micro.images else None
        x_BCTHW = as_pixels(micro.samples, frames=frames, device=self._device)
        if network == DISCRIMINATOR:
            value, stats = self._loss.discriminator(
                x_BCTHW, self._reconstruction, engines[DISCRIMINATOR]
            )
            return Loss(value=value, stats=stats)
        shape = self._autoencoder.latent_shape(*x_BCTHW.shape[2:])
        noise = micro.random.normal((self._model.latent_channels, *shape))
        noise = on_device(noise, device=self._device)
        reconstruction, posterior = engines[AUTOENCODER](x_BCTHW, noise)
        self._reconstruction = reconstruction.detach()
        active = self.is_active(DISCRIMINATOR, step=micro.step)
        value, stats = self._loss.generator(
            x_BCTHW,
            reconstruction,
            posterior,
            critic=engines[DISCRIMINATOR].module if active else None,
        )
        return Loss(value=value, stats=stats)

    def lr_scale(self, network: str, name: str) -> float:
        """All weights learn alike."""
        del network, name
        return 1.0

    def start_from(self, weights: Mapping[str, Tensor], *, stage: str) -> None:
        """Loads a network of the same shape."""
        load_into(self.networks[AUTOENCODER], weights, stage=stage)

    def config(self) -> dict[str, Any]:
        """The autoencoder's shape."""
        return {"model": self._model.model_dump(mode="json")}
