"""One network of a cascade: from the clip of the one before, or from noise alone, to its own.

Shape letters: B clips, E image embedding, t T frames, h H height, w W width; small letters are
the clip before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from models.cascade.conditions import doubled
from models.cascade.lift import enlarge, insert_frames
from models.cascade.model import CaptionedUNet
from models.cascade.parts import free_bytes, in_parts, pixels_at_once
from models.config import RGB, MissingFrames
from models.diffusion.augmentation import augment
from models.diffusion.config import SamplerConfig
from models.diffusion.guidance import Denoise, guided
from models.diffusion.objective import Objective
from models.diffusion.samplers import grid_of, sample
from models.make_a_video.interpolation import every_kth, given_channels, spread
from models.nn.unet_inputs import UNetInputs
from models.text.states import EMPTY_CAPTION, TextEncoder, TextStates

Step = Literal["start", "space", "time", "given"]


@dataclass(frozen=True)
class Request:
    """Clips to be made, and what every network of a cascade may ask of them."""

    prompts: Sequence[str]
    generators: Sequence[torch.Generator]  # one per clip, drawn from by each network in turn
    embedding_BE: Tensor | None = None  # of the image that a prior imagines


@dataclass(frozen=True)
class Link:
    """A trained network on one device, and how it is sampled.

    Attributes:
        model: the network, with its own text encoder if that was trained along.
        text: the frozen text encoder of a network that reads text and has none of its own.
        objective: what it was trained for.
        sampler: rule, steps, guidance, threshold.
        frames: of its clips; 1 for a network of images, which takes the frames of a longer clip
            one by one, all from the same noise.
        size: height and width of its clips.
        fps: of its clips.
        step: what it makes of the clip before.
        factor: how many times as many frames, or pixels along a side.
        missing: what a network that puts frames between reads in their place, as it was trained.
        level: noise on the smaller clip, for a network that was trained with it: a time of the
            cosine schedule.
        most_bytes: memory for the values of one call; None for what the device has free. Larger
            clips go through the network in parts (see ``in_parts``). Tiles, if it comes to them,
            depend on it a little, so give a number to get the same clip on every machine.
    """

    model: CaptionedUNet
    text: TextEncoder | None
    objective: Objective
    sampler: SamplerConfig
    frames: int
    size: tuple[int, int]
    fps: float
    step: Step
    factor: int = 1
    missing: MissingFrames = "repeat"
    level: float = 0.0
    most_bytes: int | None = None

    @torch.no_grad()
    def sample(self, request: Request, below: Tensor | None = None) -> Tensor:
        """Clips of this network's size.

        Args:
            request: one clip per prompt.
            below: the clips before, [B, 3, t, h, w], pixels in [-1, 1]; None for the first one.

        Returns:
            [B, 3, T, H, W], float32, pixels in [-1, 1].

        Raises:
            ValueError: if the clips before are missing or too many, or of another size.
        """
        if (below is None) != (self.step == "start"):
            raise ValueError(f"step={self.step} with below={'none' if below is None else 'given'}")
        if below is not None and self.frames == 1 and below.shape[2] > 1:
            return self._frame_by_frame(request, below)
        if below is not None and self.step == "given":
            mask_T = every_kth(self.frames, skip=self.factor)
            known = spread(below, skip=self.factor)
            return self.complete(request, known, mask_T.expand(len(known), -1))
        noise = self._noise(request, below)
        return self._from_noise(request, self._inputs(request, below, noise), noise)

    @torch.no_grad()
    def complete(self, request: Request, known_B3THW: Tensor, mask_BT: Tensor) -> Tensor:
        """Clips some of whose frames are known, of any number: what is between, after or before.

        Args:
            request: one clip per prompt.
            known_B3THW: pixels in [-1, 1]; frames that are not known are not read.
            mask_BT: true where a frame is known, bool.

        Returns:
            [B, 3, T, H, W], float32, pixels in [-1, 1]; known frames come back as they are.

        Raises:
            ValueError: if the network takes no known frames, or they are of another size.
        """
        if not self.model.unet.config.given_frames:
            raise ValueError("given_frames=false, wanted a network that is given frames")
        if tuple(known_B3THW.shape[-2:]) != tuple(self.size):
            raise ValueError(f"known frames of {tuple(known_B3THW.shape[-2:])}, wanted {self.size}")
        known_B3THW, mask_BT = known_B3THW.to(self._device), mask_BT.to(self._device)
        noise = self._draw(request, tuple(known_B3THW.shape[1:]))
        given = given_channels(known_B3THW, mask_BT, missing=self.missing)
        inputs = replace(self._conditions(request, len(noise)), given_BCTHW=given)
        clips = self._from_noise(request, inputs, noise)
        return torch.where(mask_BT[:, None, :, None, None], known_B3THW.to(clips), clips)

    def _from_noise(self, request: Request, inputs: UNetInputs, noise: Tensor) -> Tensor:
        return sample(
            self._denoiser(request, inputs, pixels=self._pixels_at_once(noise)),
            noise,
            objective=self.objective,
            config=self.sampler,
            generators=request.generators,
        ).clamp(-1.0, 1.0)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _noise(self, request: Request, below: Tensor | None) -> Tensor:
        """One draw per clip, of this network's size."""
        frames = self.frames
        if below is not None and self.step == "space":
            frames = below.shape[2]  # a network that enlarges frames takes clips of any length
        return self._draw(request, (RGB, frames, *self.size))

    def _draw(self, request: Request, shape: tuple[int, ...]) -> Tensor:
        draws = [torch.randn(shape, generator=one) for one in request.generators]
        return torch.stack(draws).to(self._device)

    def _conditions(self, request: Request, clips: int) -> UNetInputs:
        """All that does not come from another clip, but for the text."""
        config = self.model.unet.config
        return UNetInputs(
            image_embedding_GE=request.embedding_BE if config.image_embedding else None,
            fps_B=self._filled(clips, self.fps) if config.fps else None,
        )

    def _inputs(self, request: Request, below: Tensor | None, noise: Tensor) -> UNetInputs:
        config, clips = self.model.unet.config, len(noise)
        inputs = self._conditions(request, clips)
        if below is None:
            return inputs
        below = below.to(self._device)
        low = (
            insert_frames(below, factor=self.factor, missing=self.missing)
            if self.step == "time"
            else enlarge(below, size=self.size)
        )
        if low.shape != noise.shape:
            raise ValueError(f"below gives {tuple(low.shape)}, wanted {tuple(noise.shape)}")
        if not config.augmentation:
            return replace(inputs, low_resolution_BCTHW=low)
        level_B = self._filled(clips, self.level)
        return replace(
            inputs,
            low_resolution_BCTHW=augment(low, self._draw(request, low.shape[1:]), level_B),
            augmentation_B=level_B,
        )

    def _filled(self, clips: int, value: float) -> Tensor:
        return torch.full((clips,), value, device=self._device)

    def _denoiser(self, request: Request, inputs: UNetInputs, *, pixels: int) -> Denoise:
        """The network with its conditions, guided away from none."""
        config, prompts = self.model.unet.config, list(request.prompts)
        conditional = self._bind(self._with_text(inputs, prompts), pixels=pixels)
        if self.sampler.guidance.scale == 1.0:
            return conditional
        twice = doubled(inputs)
        if config.image_embedding and inputs.image_embedding_GE is not None:
            known = inputs.image_embedding_GE
            twice = replace(twice, image_embedding_GE=torch.cat([known, torch.zeros_like(known)]))
        times = [moment.t for moment in grid_of(self.objective, config=self.sampler)[:-1]]
        return guided(
            conditional=conditional,
            both=self._bind(
                self._with_text(twice, [*prompts, *[EMPTY_CAPTION] * len(prompts)]), pixels=pixels
            ),
            config=self.sampler.guidance,
            times=times,
        )

    def _with_text(self, inputs: UNetInputs, captions: list[str]) -> UNetInputs:
        if not self.model.unet.config.text:
            return inputs
        return replace(inputs, text=self.read(captions))

    def read(self, captions: list[str]) -> TextStates:
        """Captions as the network was trained to see them."""
        encoder = self.model.text or self.text
        assert encoder is not None
        tokens = encoder.tokenize(captions).to(self._device)
        return encoder(tokens.ids_BL, tokens.mask_BL)

    def _bind(self, inputs: UNetInputs, *, pixels: int) -> Denoise:
        def denoise(x_B3THW: Tensor, t_B: Tensor) -> Tensor:
            return in_parts(
                self.model,
                x_B3THW,
                t_B,
                inputs,
                config=self.model.unet.config,
                most_pixels=pixels,
            )

        return denoise

    def _pixels_at_once(self, noise: Tensor) -> int:
        return pixels_at_once(
            self.model.unet.config,
            bytes_per_value=self.model.unet.stem.space.weight.element_size(),
            most_bytes=free_bytes(self._device) if self.most_bytes is None else self.most_bytes,
            sampled_pixels=noise[:, 0].numel(),
        )

    def _frame_by_frame(self, request: Request, below: Tensor) -> Tensor:
        """A network of images on every frame of longer clips, all from the same draws.

        Source: shared noise, Singer et al. 2022 (Make-A-Video), arXiv:2209.14792, section 3.2.
        """
        frames = below.shape[2]
        known = request.embedding_BE
        images = Request(
            prompts=[prompt for prompt in request.prompts for _ in range(frames)],
            generators=[
                one for each in request.generators for one in (each, *_copies(each, frames - 1))
            ],
            embedding_BE=None if known is None else known.repeat_interleave(frames, dim=0),
        )
        clips = self.sample(images, below.transpose(1, 2).flatten(0, 1).unsqueeze(2))
        return clips.squeeze(2).unflatten(0, (-1, frames)).transpose(1, 2)


def _copies(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """Generators that draw what this one will."""
    copies = [torch.Generator(generator.device) for _ in range(count)]
    for one in copies:
        one.set_state(generator.get_state())
    return copies
