"""Training a U-Net on pixels: base, decoder, upsampling or interpolation, teacher or student."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from models.cascade.model import CaptionedUNet
from models.diffusion.objective import Objective, build_objective
from models.text.encoder import TextEncoder
from models.text.pair_states import ImageTextPair
from models.text.states import distinct
from orchestrator.data.index import Bucket
from orchestrator.errors import UserError
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.train.encoders import load_text
from orchestrator.train.flops import training_flops, unet_flops
from orchestrator.train.tasks.base import Forward, Loss, Micro, Work
from orchestrator.train.tasks.pixel_batch import PixelBatch, PixelReader
from orchestrator.train.tasks.targets import PixelLoss
from orchestrator.train.transfer import on_device, record_on_device
from orchestrator.train.weights import load_into

DENOISER = "denoiser"


class PixelTask:
    """A network of pixels and its loss.

    Args:
        recipe: the run's.
        stage: what is trained.
        device: of this rank.
        pair: the encoders behind image embeddings, frozen; None for networks that read none.
        frozen: the frozen text encoder, on the device; None for networks that read none.
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
        frozen: TextEncoder | None,
        loss: PixelLoss,
    ) -> None:
        train = stage.training
        self._train = train
        self._recipe = recipe
        self._device = device
        self._reader = PixelReader(recipe, stage, pair=pair, device=device)
        self._objective: Objective = build_objective(train.diffusion)
        self._loss = loss
        model = build_unet(recipe, stage, frozen=frozen)
        self._model, self.frozen = model, frozen
        self._taken_over: frozenset[str] = frozenset()
        self.networks: dict[str, nn.Module] = {DENOISER: model}
        height, width = train.crop or train.clip.size
        clip = (train.clip.frames, height, width)
        flops = unet_flops(train.unet, clip=clip, text_width=model.unet.text_width)
        self._work = Work(
            units=prod(clip), flops=training_flops(flops, is_student=stage.distill is not None)
        )

    def work(self, bucket: Bucket) -> Work:
        """One window at the view's size, whatever the stored clip is."""
        del bucket
        return self._work

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

        return self._loss(student, batch, micro).mean()

    def _call(self, forward: Forward | nn.Module, x: Tensor, t_B: Tensor, batch: PixelBatch) -> Any:
        if not batch.captions:
            return forward(x, t_B, batch.inputs)
        captions, rows_G = distinct(batch.captions)
        rows_G = on_device(rows_G, device=self._device)
        if self.frozen is not None:
            tokens = record_on_device(self.frozen.tokenize(captions), device=self._device)
            text = self.frozen(tokens.ids_BL, tokens.mask_BL).rows(rows_G)
            return forward(x, t_B, replace(batch.inputs, text=text))
        assert self._model.text is not None
        tokens = record_on_device(self._model.text.tokenize(captions), device=self._device)
        return forward(x, t_B, batch.inputs, tokens, rows_G)

    def lr_scale(self, network: str, name: str) -> float:
        """Layers of space taken over from another stage may learn more slowly than the rest."""
        del network
        slow = name in self._taken_over and name not in self._model.temporal_names()
        return self._train.optim.spatial_lr_ratio if slow else 1.0

    def start_from(self, weights: Mapping[str, Tensor], *, stage: str) -> None:
        """Loads the same network, or one that lacks layers over time, given frames or fps."""
        try:
            self._taken_over = self._model.load_smaller(weights)
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


def build_frozen_text(recipe: Recipe, *, device: torch.device) -> TextEncoder | None:
    """The frozen text encoder that all networks of a run share; None if each trains its own."""
    if recipe.text.kind == "byt5":
        return None
    return load_text(recipe.text).to(device)


def build_unet(recipe: Recipe, stage: Stage, *, frozen: TextEncoder | None) -> CaptionedUNet:
    """A stage's network with fresh weights, and its own text encoder if none is frozen."""
    config, objective = stage.training.unet, build_objective(stage.training.diffusion)
    if not config.text:
        return CaptionedUNet(config, text_width=None, text=None, objective=objective)
    text = frozen or load_text(recipe.text)
    own = None if frozen is not None else text
    return CaptionedUNet(config, text_width=text.width, text=own, objective=objective)


def load_unet(
    recipe: Recipe, stage: Stage, weights: Mapping[str, Tensor], *, frozen: TextEncoder | None
) -> CaptionedUNet:
    """A finished network on the CPU, frozen."""
    model = build_unet(recipe, stage, frozen=frozen)
    load_into(model, weights, stage=stage.id)
    return model.eval().requires_grad_(False)
