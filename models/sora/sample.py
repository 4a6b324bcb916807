"""The sampling chain: prompts to video, through text encoder, transformer and decoder.

Shape letters: B clips, C latent channels, T H W frames, height and width (of pixels in *_B3THW,
of the latent grid in *_BCTHW).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.diffusion.config import SamplerConfig
from models.diffusion.guidance import Denoise, guided
from models.diffusion.objective import Objective
from models.diffusion.samplers import grid_of, sample
from models.sora.autoencoder import VideoAutoencoder
from models.sora.dit import Condition, VideoDiT
from models.sora.tiling import decode_tiled, encode_tiled
from models.text.states import EMPTY_CAPTION, TextEncoder, TextStates

WHOLE_FRAMES = 33  # longer clips pass the autoencoder in chunks, to bound the memory
WHOLE_SIDE = 768  # pixels; frames with a longer side pass it in tiles, for the same reason
TILE = 512  # pixels, a multiple of every space factor, as is the next
OVERLAP = 128  # pixels, above the autoencoder's reach in its usual shapes (models/sora/tiling.py)


@dataclass(frozen=True)
class SoraChain:
    """Trained networks on one device, put together for sampling."""

    autoencoder: VideoAutoencoder
    dit: VideoDiT
    text: TextEncoder
    objective: Objective

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        *,
        frames: int,
        size: tuple[int, int],
        sampler: SamplerConfig,
        seeds: Sequence[int],
        condition_video: Tensor | None = None,
    ) -> Tensor:
        """One clip per prompt.

        Args:
            prompts: captions, "" for none.
            frames: frames of the clip, a multiple of the autoencoder's time factor plus 1.
            size: (height, width), pixels.
            sampler: rule, steps and guidance.
            seeds: one per prompt. A clip depends on its own prompt and seed only, and the seed
                means the same noise on every device.
            condition_video: the first frames to start from, [B, 3, T0, H, W], pixels in
                [-1, 1], T0 below ``frames`` and also a multiple of the time factor plus 1: one
                frame animates an image, more of them extend a video.

        Returns:
            [B, 3, frames, height, width], float32, pixels in [-1, 1]. Given frames come back as
            the autoencoder sees them.

        Raises:
            ValueError: if the counts differ, a size does not fit the autoencoder or the
                transformer, or frames are given to a model that was not trained to take them.
        """
        if not prompts or len(prompts) != len(seeds):
            raise ValueError(f"got {len(prompts)} prompts and {len(seeds)} seeds, wanted as many")
        grid = self.autoencoder.latent_shape(frames, *size)
        condition = None
        if condition_video is not None:
            self._check_given(condition_video, clips=len(prompts), frames=frames, size=size)
            condition = self._given(condition_video, grid=grid)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        shape = (self.autoencoder.config.latent_channels, *grid)
        noise = torch.stack([torch.randn(shape, generator=one) for one in generators])
        latents = sample(
            self._denoiser(prompts, sampler=sampler, condition=condition),
            noise.to(self._device),
            objective=self.objective,
            config=sampler,
            generators=generators,
        )
        return self._decode(latents, frames=frames)

    def extend(
        self,
        video_B3THW: Tensor,
        prompts: Sequence[str],
        *,
        given: int,
        frames: int,
        sampler: SamplerConfig,
        seeds: Sequence[int],
    ) -> Tensor:
        """Continues videos beyond their end.

        Args:
            video_B3THW: videos of any length from ``given`` frames up, [B, 3, T, H, W], pixels
                in [-1, 1].
            prompts: captions of the continuation.
            given: how many of the last frames the model sees, a multiple of the time factor
                plus 1.
            frames: length of the sampled clip, the given frames among them: the video grows by
                ``frames - given``.
            sampler: rule, steps and guidance.
            seeds: one per video.

        Returns:
            [B, 3, T + frames - given, H, W], float32: the old frames as they were, then the new.

        Raises:
            ValueError: as ``sample``, or if a video is shorter than ``given``.
        """
        length = video_B3THW.shape[2]
        if not 1 <= given <= length:
            raise ValueError(f"given={given} frames, wanted 1 to {length}, the video's length")
        height, width = video_B3THW.shape[-2:]
        clip = self.sample(
            prompts,
            frames=frames,
            size=(height, width),
            sampler=sampler,
            seeds=seeds,
            condition_video=video_B3THW[:, :, -given:],
        )
        return torch.cat([video_B3THW.to(clip), clip[:, :, given:]], dim=2)

    @property
    def _device(self) -> torch.device:
        return next(self.dit.parameters()).device

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.dit.parameters()).dtype

    def _denoiser(
        self, prompts: Sequence[str], *, sampler: SamplerConfig, condition: Condition | None
    ) -> Denoise:
        """The transformer with its captions, guided, and never in doubt about given frames."""
        captioned = self._bind(self._read(prompts), condition)
        if sampler.guidance.scale == 1.0:
            return captioned
        twice = self._bind(
            self._read([*prompts, *[EMPTY_CAPTION] * len(prompts)]),
            None if condition is None else _doubled(condition),
        )
        denoise = guided(
            conditional=captioned,
            both=twice,
            config=sampler.guidance,
            times=[at.t for at in grid_of(self.objective, config=sampler)[:-1]],
        )
        # Again around the guided output: its rescaling moves given frames too.
        return denoise if condition is None else self._hold(denoise, condition)

    def _bind(self, text: TextStates, condition: Condition | None) -> Denoise:
        def denoise(x_BCTHW: Tensor, t_B: Tensor) -> Tensor:
            return self.dit(x_BCTHW.to(self._dtype), t_B, text, condition).float()

        return denoise if condition is None else self._hold(denoise, condition)

    def _hold(self, denoise: Denoise, condition: Condition) -> Denoise:
        """Replaces the output on given frames by the one that stands for the given latents.

        The loss leaves given frames out, so what the network says there means nothing; with the
        right answer in its place their noisy latents stay on the path seen in training.
        """

        def held(x_BCTHW: Tensor, t_B: Tensor) -> Tensor:
            known = self.objective.express(condition.latents_BCTHW, x_BCTHW, t_B)
            return torch.where(condition.mask_B1THW > 0.5, known, denoise(x_BCTHW, t_B))

        return held

    def _read(self, captions: Sequence[str]) -> TextStates:
        tokens = self.text.tokenize(list(captions)).to(self._device)
        return self.text(tokens.ids_BL, tokens.mask_BL)

    def _check_given(
        self, video_B3THW: Tensor, *, clips: int, frames: int, size: tuple[int, int]
    ) -> None:
        if not self.dit.config.condition_frames:
            raise ValueError(
                "condition_video is given, wanted none: the model has condition_frames=false"
            )
        shape = tuple(video_B3THW.shape)
        if len(shape) != 5 or shape[2] >= frames or shape != (clips, 3, shape[2], *size):
            raise ValueError(
                f"condition_video has shape {shape}, wanted "
                f"({clips}, 3, below {frames}, {size[0]}, {size[1]})"
            )

    def _given(self, video_B3THW: Tensor, *, grid: tuple[int, int, int]) -> Condition:
        """Latents of the given frames, zeros after them, and their mask."""
        video_B3THW = video_B3THW.to(self._device)
        if max(video_B3THW.shape[-2:]) > WHOLE_SIDE:
            posterior = encode_tiled(self.autoencoder, video_B3THW, tile=TILE, overlap=OVERLAP)
        elif video_B3THW.shape[2] > WHOLE_FRAMES:
            posterior = self.autoencoder.encode_chunked(video_B3THW)
        else:
            posterior = self.autoencoder.encode(video_B3THW)
        known = self.autoencoder.normalise(posterior.mean)
        clips, channels, count = known.shape[:3]
        latents = known.new_zeros(clips, channels, *grid)
        latents[:, :, :count] = known
        mask = known.new_zeros(clips, 1, *grid)
        mask[:, :, :count] = 1.0
        return Condition(latents_BCTHW=latents, mask_B1THW=mask)

    def _decode(self, latents_BCTHW: Tensor, *, frames: int) -> Tensor:
        z_BCTHW = self.autoencoder.denormalise(latents_BCTHW)
        side = max(z_BCTHW.shape[-2:]) * self.autoencoder.config.space_factor
        if side > WHOLE_SIDE:
            video = decode_tiled(self.autoencoder, z_BCTHW, tile=TILE, overlap=OVERLAP)
        elif frames > WHOLE_FRAMES:
            video = self.autoencoder.decode_chunked(z_BCTHW)
        else:
            video = self.autoencoder.decode(z_BCTHW)
        return video.clamp(-1.0, 1.0)


def _doubled(condition: Condition) -> Condition:
    return Condition(
        latents_BCTHW=torch.cat([condition.latents_BCTHW] * 2),
        mask_B1THW=torch.cat([condition.mask_B1THW] * 2),
    )
