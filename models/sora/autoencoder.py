"""The causal video autoencoder: 4k+1 frames to k+1 latents, an image to one.

Shape letters: B clips, C channels (of pixels in x, of latents in z), T H W frames, height, width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.config import RGB
from models.nn.causal_conv import CausalConv3d, Past, depth_to_space, space_to_depth
from models.sora.autoencoder_blocks import ChannelNorm, Grow, ResidualBlock, Shrink
from models.sora.autoencoder_config import AutoencoderConfig

LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class Posterior:
    """A Gaussian per latent position; both [B, C, T, H, W]."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise_BCTHW: Tensor) -> Tensor:
        """mean + deviation * noise, [B, C, T, H, W]."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise_BCTHW

    def kl(self) -> Tensor:
        """Divergence from the standard normal per clip, [B], float32, averaged over positions.

        Source: Kingma and Welling 2013, arXiv:1312.6114, appendix B. A mean instead of a sum, so
        that its weight does not depend on the clip's size.
        """
        mean, logvar = self.mean.float(), self.logvar.float()
        return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).flatten(1).mean(dim=1)


class VideoAutoencoder(nn.Module):
    """Causal 3D convolutions down to a latent grid and up again.

    Source: the layout of Wan 2.1 (arXiv:2503.20314, section 4.1) and HunyuanVideo
    (arXiv:2412.03603, section 4.1): causal convolutions, RMS norm, no attention. Differences: the
    stem may be space to depth (``patch``), time is pooled from the middle transitions on, and a
    clip's first frame is continued into the past instead of zeros.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * mult for mult in config.width_mults]
        pixels = RGB * config.patch**2
        self.encoder = _Encoder(config, widths=widths, pixels=pixels)
        self.decoder = _Decoder(config, widths=widths, pixels=pixels)
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latent_std", torch.ones(config.latent_channels))

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Latent (frames, height, width) of a clip.

        Raises:
            ValueError: if the clip does not divide into whole latents.
        """
        time, space = self.config.time_factor, self.config.space_factor
        if frames < 1 or (frames - 1) % time:
            raise ValueError(f"frames={frames}, wanted {time}k+1 (1, {time + 1}, ...)")
        if height % space or width % space:
            raise ValueError(f"size={[height, width]}, wanted multiples of {space}")
        return (frames - 1) // time + 1, height // space, width // space

    def blocks(self) -> list[nn.Module]:
        """What is compiled or recomputed one by one."""
        return [one for one in self.modules() if isinstance(one, ResidualBlock)]

    def forward(self, x_BCTHW: Tensor, noise_BCTHW: Tensor) -> tuple[Tensor, Posterior]:
        """Reconstruction through a sampled latent, as in training.

        Args:
            x_BCTHW: pixels in [-1, 1], [B, 3, T, H, W].
            noise_BCTHW: standard normal noise of the latents' shape.

        Returns:
            Reconstruction [B, 3, T, H, W], float32, and the posterior.
        """
        posterior = self.encode(x_BCTHW)
        return self.decode(posterior.sample(noise_BCTHW)), posterior

    def encode(self, x_BCTHW: Tensor) -> Posterior:
        """Posterior over latents [B, C, T', H', W'], float32.

        Raises:
            ValueError: if the clip does not divide into whole latents.
        """
        self.latent_shape(*x_BCTHW.shape[2:])
        return _posterior(self.encoder(x_BCTHW.to(self._dtype)))

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Pixels [B, 3, T, H, W], float32, about [-1, 1], of latents that are not normalised."""
        return self.decoder(z_BCTHW.to(self._dtype)).float()

    def encode_chunked(self, x_BCTHW: Tensor) -> Posterior:
        """Equal to ``encode``, in memory that does not grow with the clip's length.

        The first chunk is one frame, the others ``time_factor`` frames, each a latent frame.
        """
        self.latent_shape(*x_BCTHW.shape[2:])
        later = x_BCTHW[:, :, 1:].split(self.config.time_factor, dim=2)
        chunks = [x_BCTHW[:, :, :1], *(chunk for chunk in later if chunk.shape[2])]
        past = Past()
        parts: list[Tensor] = []
        for chunk in chunks:
            parts.append(self.encoder(chunk.to(self._dtype), past))
            past.next_chunk()
        return _posterior(torch.cat(parts, dim=2))

    def decode_chunked(self, z_BCTHW: Tensor) -> Tensor:
        """Equal to ``decode``, one latent frame at a time."""
        past = Past()
        parts: list[Tensor] = []
        for latent in z_BCTHW.split(1, dim=2):
            parts.append(self.decoder(latent.to(self._dtype), past).float())
            past.next_chunk()
        return torch.cat(parts, dim=2)

    def normalise(self, z_BCTHW: Tensor) -> Tensor:
        """Latents with mean 0 and deviation 1 per channel, by the stored statistics."""
        mean, std = self._statistics(z_BCTHW)
        return (z_BCTHW - mean) / std

    def denormalise(self, z_BCTHW: Tensor) -> Tensor:
        """The inverse of ``normalise``."""
        mean, std = self._statistics(z_BCTHW)
        return z_BCTHW * std + mean

    def _statistics(self, z_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1, 1)
        return self.latent_mean.view(shape).to(z_BCTHW), self.latent_std.view(shape).to(z_BCTHW)

    @property
    def _dtype(self) -> torch.dtype:
        return self.encoder.stem.weight.dtype


class _Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig, *, widths: list[int], pixels: int) -> None:
        super().__init__()
        self.patch = config.patch
        self.stem = CausalConv3d(pixels, widths[0], kernel=(1, 3, 3))
        layers: list[nn.Module] = []
        for level, width in enumerate(widths):
            source = widths[max(level - 1, 0)]
            if level:
                layers.append(Shrink(source, **_halves(config, transition=level - 1)))
            layers += [
                ResidualBlock(width if block else source, width) for block in range(config.blocks)
            ]
        self.layers = nn.ModuleList(layers)
        self.norm = ChannelNorm(widths[-1])
        self.head = nn.Conv3d(widths[-1], 2 * config.latent_channels, 1)

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        h_BCTHW = self.stem(space_to_depth(x_BCTHW, factor=self.patch))
        for layer in self.layers:
            h_BCTHW = layer(h_BCTHW, past)
        return self.head(nn.functional.silu(self.norm(h_BCTHW)))


class _Decoder(nn.Module):
    def __init__(self, config: AutoencoderConfig, *, widths: list[int], pixels: int) -> None:
        super().__init__()
        self.patch = config.patch
        self.stem = nn.Conv3d(config.latent_channels, widths[-1], 1)
        layers: list[nn.Module] = []
        for level in reversed(range(len(widths))):
            source = widths[min(level + 1, len(widths) - 1)]
            if level + 1 < len(widths):
                layers.append(Grow(source, **_halves(config, transition=level)))
            layers += [
                ResidualBlock(widths[level] if block else source, widths[level])
                for block in range(config.blocks)
            ]
        self.layers = nn.ModuleList(layers)
        self.norm = ChannelNorm(widths[0])
        self.head = CausalConv3d(widths[0], pixels, kernel=(1, 3, 3))

    def forward(self, z_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        h_BCTHW = self.stem(z_BCTHW)
        for layer in self.layers:
            h_BCTHW = layer(h_BCTHW, past)
        h_BCTHW = self.head(nn.functional.silu(self.norm(h_BCTHW)))
        return depth_to_space(h_BCTHW, factor=self.patch)


def _posterior(moments_BCTHW: Tensor) -> Posterior:
    mean, logvar = moments_BCTHW.float().chunk(2, dim=1)
    return Posterior(mean=mean, logvar=logvar.clamp(*LOGVAR_RANGE))


def _halves(config: AutoencoderConfig, *, transition: int) -> dict[str, bool]:
    """What a transition halves: the last ones do, so that early layers see all frames."""
    left = config.transitions - transition
    return {"time": left <= config.time_transitions, "space": left <= config.space_transitions}
