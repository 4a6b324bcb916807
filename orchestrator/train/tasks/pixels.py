"""Training a U-Net on pixels: base, decoder, upsampling or interpolation, teacher or student."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from models.cascade.model import CaptionedUNet
from models.diffusion.objective import Objective, build_objective
from models.text.encoder import TextEncoder
from models.text.pair_states import ImageTextPair
from orchestrator.errors import UserError
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.train.encoders import load_text
from orchestrator.train.flops import unet_flops
from orchestrator.train.tasks.base import Forward, Loss, Micro
from orchestrator.train.tasks.pixel_batch import PixelBatch, PixelReader
from orchestrator.train.tasks.targets import PixelLoss
from orchestrator.train.weights import load_into

DENOISER = "denoiser"


class PixelTask:
    """A network of pixels and its loss.

    Args:
        recipe: the run's.
        stage: what is trained.
        device: of this rank.
        pair: the encoders behind image embeddings, frozen; None for networks that read none.
        loss: what the network learns: the objective's target, or a teacher's answers.

    Attributes:
        frozen: the text encoder that the network reads with, if that is not trained along.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: Stage,
        *,
        device: torch.device,
        pair: ImageTextPair | None,
        loss: PixelLoss,
    ) -> None:
        train = stage.training
        self._train = train
        self._recipe = recipe
        self._device = device
        self._reader = PixelReader(recipe, stage, pair=pair, device=device)
        self._objective: Objective = build_objective(train.diffusion)
        self._loss = loss
        model, self.frozen = build_unet(recipe, stage)
        self._model = model
        if self.frozen is not None:
            self.frozen.to(device)
        self.networks: dict[str, nn.Module] = {DENOISER: model}
        height, width = train.crop or train.clip.size
        self.units_per_clip = train.clip.frames * height * width
        self.flops_per_clip = 3 * unet_flops(
            train.unet,
            clip=(train.clip.frames, height, width),
            text_width=model.unet.text_width,
        )

    def blocks(self) -> list[nn.Module]:
        """The U-Net's layers."""
        return self._model.blocks()

    def is_active(self, network: str, *, step: int) -> bool:
        """The denoiser always trains."""
        del step
        return network == DENOISER

    def loss(self, network: str, engines: Mapping[str, Forward], micro: Micro) -> Loss:
        """Mean over clips of what the stage learns from."""
        batch = self._reader.read(micro)

        def student(x_B3THW: Tensor, t_B: Tensor) -> Tensor:
            return self._call(engines[network], x_B3THW, t_B, batch)

        loss_B = self._loss(student, batch, micro)
        value = loss_B.mean()
        return Loss(value=value, stats={"loss": value.detach()})

    def _call(self, forward: Forward | nn.Module, x: Tensor, t_B: Tensor, batch: PixelBatch) -> Any:
        if not batch.captions:
            return forward(x, t_B, batch.inputs)
        if self.frozen is not None:
            tokens = self.frozen.tokenize(batch.captions).to(self._device)
            text = self.frozen(tokens.ids_BL, tokens.mask_BL)
            return forward(x, t_B, replace(batch.inputs, text=text))
        assert self._model.text is not None
        return forward(x, t_B, batch.inputs, self._model.text.tokenize(batch.captions).to(x.device))

    def lr_scale(self, network: str, name: str) -> float:
        """What came from an image network may learn more slowly than the layers over time."""
        del network
        ratio = self._train.optim.spatial_lr_ratio
        return 1.0 if ratio == 1.0 or name in self._model.temporal_names() else ratio

    def start_from(self, weights: Mapping[str, Tensor], *, stage: str) -> None:
        """Loads the same network, or one that lacks layers over time, given frames or fps."""
        try:
            self._model.load_smaller(weights)
        except ValueError as error:
            raise UserError(f"weights of stage {stage}: {error}") from None

    def config(self) -> dict[str, Any]:
        """Everything that sampling needs to know beside the weights."""
        return {
            "model": self._train.model.model_dump(mode="json"),
            "objective": self._train.objective.model_dump(mode="json"),
            "sampler": self._train.sampler.model_dump(mode="json"),
            "text": self._recipe.text.model_dump(mode="json"),
            "text_width": self._model.unet.text_width,
            "clip": self._train.clip.model_dump(mode="json"),
        }


def build_unet(recipe: Recipe, stage: Stage) -> tuple[CaptionedUNet, TextEncoder | None]:
    """A stage's network with fresh weights, and the frozen text encoder that it reads with."""
    config = stage.training.unet
    if not config.text:
        return CaptionedUNet(config, text_width=None, text=None), None
    text = load_text(recipe.text)
    model = CaptionedUNet(config, text_width=text.width, text=text if text.trainable else None)
    return model, None if text.trainable else text


def load_unet(
    recipe: Recipe, stage: Stage, weights: Mapping[str, Tensor], *, device: torch.device
) -> tuple[CaptionedUNet, TextEncoder | None]:
    """A finished network, frozen, and the text encoder that it reads with if it has none."""
    model, text = build_unet(recipe, stage)
    load_into(model, weights, stage=stage.id)
    model.eval().requires_grad_(False).to(device)
    return model, None if text is None else text.to(device)
