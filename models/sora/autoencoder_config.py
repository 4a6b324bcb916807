"""Shapes and losses of the video autoencoder. No torch."""

from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from models.config import Strict

Factor = Literal[1, 2, 4, 8, 16, 32]


class AutoencoderConfig(Strict):
    """A causal 3D autoencoder.

    The grid shrinks in ``transitions`` steps: space first by ``patch`` (space to depth, no loss),
    then by 2 in the last transitions, and so does time. ``width_mults`` has one entry more than
    there are transitions.
    """

    kind: Literal["video_autoencoder"] = "video_autoencoder"
    latent_channels: PositiveInt = 16
    width: PositiveInt = 96
    width_mults: tuple[PositiveInt, ...] = (1, 2, 4, 4)
    blocks: PositiveInt = 2  # residual blocks per level
    time_factor: Factor = 4
    space_factor: Factor = 8
    patch: Factor = 1  # part of space_factor that is space to depth

    @property
    def space_transitions(self) -> int:
        """Transitions that halve the frame's sides."""
        return (self.space_factor // self.patch).bit_length() - 1

    @property
    def time_transitions(self) -> int:
        """Transitions that halve the number of frames."""
        return self.time_factor.bit_length() - 1

    @property
    def transitions(self) -> int:
        """Steps in which the grid shrinks."""
        return max(self.space_transitions, self.time_transitions)

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        if self.patch > self.space_factor:
            raise ValueError(
                f"patch={self.patch} is above space_factor={self.space_factor}, wanted at most that"
            )
        wanted = self.transitions + 1
        if len(self.width_mults) != wanted:
            raise ValueError(
                f"width_mults={list(self.width_mults)} has {len(self.width_mults)} entries, "
                f"wanted {wanted} for time_factor={self.time_factor}, "
                f"space_factor={self.space_factor}, patch={self.patch}"
            )
        return self


class AdversarialConfig(Strict):
    """The patch discriminator and its share of the loss."""

    start_step: NonNegativeInt
    weight: PositiveFloat = 0.05
    width: PositiveInt = 64
    layers: PositiveInt = 3  # strided convolutions


class PerceptualConfig(Strict):
    """A VGG-style feature distance; weights come from a safetensors file."""

    path: str = Field(min_length=1)
    weight: PositiveFloat = 0.1


class AutoencoderLossConfig(Strict):
    """Weights of the terms; a term that is None or 0 is not computed."""

    kind: Literal["autoencoder"] = "autoencoder"
    l1: NonNegativeFloat = 1.0
    l2: NonNegativeFloat = 0.0
    kl: NonNegativeFloat = 1e-6
    perceptual: PerceptualConfig | None = None
    adversarial: AdversarialConfig | None = None

    @model_validator(mode="after")
    def _something_is_learned(self) -> Self:
        if not self.l1 and not self.l2:
            raise ValueError("l1=0 and l2=0, wanted a reconstruction term above 0")
        return self
