"""What a network of pixels learns: the objective's target, or its teacher's answers.

Shape letters: B clips, T frames, H W height and width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from models.cascade.conditions import doubled
from models.cascade.model import CaptionedUNet
from models.diffusion.config import GuidanceConfig
from models.diffusion.distillation import (
    distillation_loss,
    guided_target,
    student_times,
    two_step_target,
)
from models.diffusion.distillation_config import DistillationConfig
from models.diffusion.objective import Objective
from models.nn.unet_inputs import UNetInputs
from models.text.encoder import TextEncoder
from models.text.states import EMPTY_CAPTION, distinct
from orchestrator.recipe.distill import Distill
from orchestrator.train.tasks.base import Micro
from orchestrator.train.tasks.pixel_batch import PixelBatch
from orchestrator.train.tasks.timed import TimedLoss
from orchestrator.train.transfer import on_device, record_on_device

Call = Callable[[Tensor, Tensor], Tensor]  # (x_t [B, 3, T, H, W], times [B]) -> output


class PixelLoss(Protocol):
    """Loss and time of each clip."""

    def __call__(self, student: Call, batch: PixelBatch, micro: Micro) -> TimedLoss:
        """``student`` is the network with the batch's conditions bound to it."""
        ...


@dataclass(frozen=True)
class Denoising:
    """The objective's own loss; known frames do not count."""

    objective: Objective

    def __call__(self, student: Call, batch: PixelBatch, micro: Micro) -> TimedLoss:
        """See ``PixelLoss``."""
        x = batch.x_B3THW
        uniform_B = on_device(micro.random.uniform(), device=x.device)
        t_B = self.objective.sample_time(uniform_B)
        noise = on_device(micro.random.normal(x.shape[1:]), device=x.device)
        noisy = self.objective.corrupt(x, noise, t_B)
        loss_B = self.objective.loss(
            student(noisy, t_B), x, noise, t_B, weight=unknown_frames(batch.inputs)
        )
        return TimedLoss(loss_B, t_B)


@dataclass(frozen=True)
class Teacher:
    """A finished network, frozen, and how it reads captions."""

    model: CaptionedUNet
    text: TextEncoder | None

    def bind(self, inputs: UNetInputs, captions: list[str]) -> Call:
        """The network with its conditions."""
        if captions:
            encoder = self.model.text or self.text
            assert encoder is not None
            device = next(self.model.parameters()).device
            once, rows_G = distinct(captions)
            tokens = record_on_device(encoder.tokenize(once), device=device)
            with torch.no_grad():
                states = encoder(tokens.ids_BL, tokens.mask_BL)
            text = states.rows(on_device(rows_G, device=device))
            inputs = replace(inputs, text=text)

        def call(x_B3THW: Tensor, t_B: Tensor) -> Tensor:
            return self.model(x_B3THW, t_B, inputs)

        return call


@dataclass(frozen=True)
class GuidedTeacher:
    """Phase 1 of distillation: one network learns what two outputs of its teacher give."""

    teacher: Teacher
    objective: Objective
    guidance: GuidanceConfig
    weighting: DistillationConfig

    def __call__(self, student: Call, batch: PixelBatch, micro: Micro) -> TimedLoss:
        """See ``PixelLoss``."""
        x = batch.x_B3THW
        # In (0, 1]: at 0 there is no noise to find.
        uniform_B = on_device(1.0 - micro.random.uniform(), device=x.device)
        t_B = self.objective.sample_time(uniform_B)
        noise = on_device(micro.random.normal(x.shape[1:]), device=x.device)
        noisy = self.objective.corrupt(x, noise, t_B)
        target = guided_target(
            self._both(batch), noisy, t_B, objective=self.objective, config=self.guidance
        )
        loss_B = distillation_loss(
            student(noisy, t_B),
            target,
            noisy,
            t_B,
            objective=self.objective,
            config=self.weighting,
            weight=unknown_frames(batch.inputs),
        )
        return TimedLoss(loss_B, t_B)

    def _both(self, batch: PixelBatch) -> Call:
        inputs = doubled(batch.inputs)
        if batch.inputs.video_B is not None:
            inputs = replace(inputs, video_B=torch.cat([batch.inputs.video_B] * 2))
        known = batch.inputs.image_embedding_GE
        if known is not None:
            none = torch.zeros_like(known)
            inputs = replace(inputs, image_embedding_GE=torch.cat([known, none]))
        captions = batch.captions
        return self.teacher.bind(inputs, [*captions, *[EMPTY_CAPTION] * len(captions)])


@dataclass(frozen=True)
class TwoSteps:
    """Phase 2: one step of the student stands for two of its teacher."""

    teacher: Teacher
    objective: Objective
    config: DistillationConfig

    def __call__(self, student: Call, batch: PixelBatch, micro: Micro) -> TimedLoss:
        """See ``PixelLoss``."""
        x = batch.x_B3THW
        uniform_B = on_device(micro.random.uniform(), device=x.device)
        times = student_times(uniform_B, config=self.config, objective=self.objective)
        t_B = times.here_B
        noise = on_device(micro.random.normal(x.shape[1:]), device=x.device)
        noisy = self.objective.corrupt(x, noise, t_B)
        target = two_step_target(
            self.teacher.bind(batch.inputs, batch.captions),
            noisy,
            times,
            objective=self.objective,
        )
        loss_B = distillation_loss(
            student(noisy, t_B.float()),
            target,
            noisy,
            t_B,
            objective=self.objective,
            config=self.config,
            weight=unknown_frames(batch.inputs),
        )
        return TimedLoss(loss_B, t_B)


def build_loss(
    distill: Distill | None, *, objective: Objective, teacher: Teacher | None
) -> PixelLoss:
    """The loss of a stage that trains on clips, or learns from a teacher."""
    if distill is None:
        return Denoising(objective=objective)
    assert teacher is not None
    if distill.guidance is not None:
        return GuidedTeacher(
            teacher=teacher,
            objective=objective,
            guidance=distill.guidance,
            weighting=DistillationConfig(steps=1, weighting=distill.weighting),
        )
    assert distill.steps is not None
    return TwoSteps(
        teacher=teacher,
        objective=objective,
        config=DistillationConfig(steps=distill.steps, weighting=distill.weighting),
    )


def unknown_frames(inputs: UNetInputs) -> Tensor | None:
    """1 where a frame is to be found, 0 where it is given, [B, 1, T, H, W]."""
    return None if inputs.given_BCTHW is None else 1.0 - inputs.given_BCTHW[:, 3:]
