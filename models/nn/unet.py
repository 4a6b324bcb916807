"""The space-time U-Net: noisy pixels, a time and conditions in, the objective's target out.

Shape letters:
  B clips   C channels   T frames   H W height and width   N frames of all clips (B * T)
"""

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.dropout import frame_seeds, number_dropouts
from models.nn.frames import FrameNorm, fold_clips, unfold_clips
from models.nn.rope import rope_table
from models.nn.temporal import PseudoConv, TemporalAttention, TemporalConv
from models.nn.unet_blocks import Conditions, Layer
from models.nn.unet_conditioning import Conditioning
from models.nn.unet_config import RGB, UNetConfig
from models.nn.unet_inputs import UNetInputs, check_inputs
from models.nn.unet_layouts import AdmBody, EfficientBody

ROPE_THETA = 10_000.0


class Stem(nn.Module):
    """The first convolution, over the noisy clip and what else comes as pixels."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.space = nn.Conv2d(pixel_channels(config), config.width, 3, padding=1)
        # With ``space`` this is one convolution over four channels more. Apart, it can start at
        # zero, and a network without it is the same network.
        self.given = (
            nn.Conv2d(RGB + 1, config.width, 3, padding=1, bias=False)
            if config.given_frames
            else None
        )
        kernel = config.kernel_over_time
        self.time = None if kernel is None else TemporalConv(config.width, kernel=kernel)
        if self.given is not None:
            nn.init.zeros_(self.given.weight)

    def forward(self, x_NCHW: Tensor, given_NCHW: Tensor | None, conditions: Conditions) -> Tensor:
        """Returns [N, config.width, H, W]."""
        h_NCHW = self.space(x_NCHW)
        if self.given is not None:
            h_NCHW = h_NCHW + self.given(given_NCHW)
        if self.time is None:
            return h_NCHW
        return self.time(h_NCHW, frames=conditions.frames, video_B111=conditions.video_B111)


class Head(nn.Module):
    """Norm, SiLU and the last convolution, zero at first."""

    def __init__(self, channels: int, *, config: UNetConfig) -> None:
        super().__init__()
        self.norm = FrameNorm(config.groups, channels)
        self.conv = PseudoConv(channels, config.out_channels, kernel=config.kernel_over_time)
        nn.init.zeros_(self.conv.space.weight)
        nn.init.zeros_(self.conv.space.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x_NCHW: Tensor, conditions: Conditions) -> Tensor:
        """Returns [N, config.out_channels, H, W]."""
        return self.conv(
            F.silu(self.norm(x_NCHW)),
            frames=conditions.frames,
            video_B111=conditions.video_B111,
        )


def pixel_channels(config: UNetConfig) -> int:
    """Channels of the noisy clip and, where it is read, of the smaller one."""
    return 2 * RGB if config.low_resolution else RGB


class SpaceTimeUNet(nn.Module):
    """An image U-Net whose layers are followed by layers over time.

    All that mixes frames starts as the identity, and norms are per frame: a fresh network turns
    each frame into what the image network with its weights would make of it, bit by bit. A
    network without video layers is loaded with ``load_smaller``. Without attention levels it is
    fully convolutional, and any height and width that are multiples of ``config.stride`` go
    through it; with them too, at a cost that grows with the square of the positions.

    Source: Make-A-Video (Singer et al. 2022, arXiv:2209.14792, section 3.2) and Video Diffusion
    Models (Ho et al. 2022, arXiv:2204.03458, section 3), which Imagen Video (arXiv:2210.02303,
    section 2.2) builds on; layouts in models/nn/unet_layouts.py.
    """

    def __init__(self, config: UNetConfig, *, text_width: int | None = None) -> None:
        """Args: ``text_width`` of the text encoder's states, for networks that read text.

        Raises:
            ValueError: if it is missing, or given to a network that reads no text.
        """
        super().__init__()
        if config.text != (text_width is not None):
            raise ValueError(
                f"text_width={text_width} with text={config.text}, wanted both or neither"
            )
        self.config = config
        self.text_width = text_width
        self.conditioning = Conditioning(config, text_width=text_width)
        self.stem = Stem(config)
        self.body = AdmBody(config) if config.layout == "adm" else EfficientBody(config)
        self.head = Head(self.body.out_channels, config=config)
        number_dropouts(self)

    def blocks(self) -> list[nn.Module]:
        """The layers, to be compiled or checkpointed one by one."""
        return [module for module in self.modules() if isinstance(module, Layer)]

    def temporal_parameters(self) -> dict[str, nn.Parameter]:
        """The weights of the layers that mix frames, by their names in this network.

        A batch of images gives them a gradient of zeros; a recipe may give them a learning rate
        of their own.
        """
        return {
            f"{prefix}.{name}": weight
            for prefix, module in self.named_modules()
            if isinstance(module, TemporalConv | TemporalAttention)
            for name, weight in module.named_parameters()
        }

    def load_smaller(self, weights: Mapping[str, Tensor]) -> frozenset[str]:
        """Loads a network that lacks some or all of: layers over time, given frames, fps.

        What it lacks stays as it is here; fresh, it changes nothing.

        Returns:
            The names of what was loaded.

        Raises:
            ValueError: if it lacks anything else, or has what this network has not.
        """
        own, names = self.state_dict().keys(), weights.keys()
        optional = ("stem.given.", "conditioning.fps.")
        temporal = self.temporal_parameters().keys()
        lacking = [
            name for name in own - names if name not in temporal and not name.startswith(optional)
        ]
        if lacking or names - own:
            raise ValueError(
                f"weights lack {_first(lacking)} and have {_first(names - own)} too much, wanted "
                "this network's, with or without those of layers over time, given frames and fps"
            )
        self.load_state_dict(weights, strict=False)
        return frozenset(names)

    def forward(self, x_BCTHW: Tensor, t_B: Tensor, inputs: UNetInputs | None = None) -> Tensor:
        """Predicts the objective's target (and what stands for its variance).

        Args:
            x_BCTHW: noisy pixels, [B, 3, T, H, W]; an image is a clip of one frame.
            t_B: times in [0, 1], [B], float32; 0 is clean.
            inputs: what the configuration reads beside them; None if it reads nothing.

        Returns:
            [B, 3, T, H, W], or 6 channels with a learned variance; float32.

        Raises:
            ValueError: if something that is read is missing, something that is not read is given,
                or a shape does not fit.
        """
        inputs = inputs or UNetInputs()
        check_inputs(
            inputs, x_BCTHW=x_BCTHW, t_B=t_B, config=self.config, text_width=self.text_width
        )
        clips, dtype = len(x_BCTHW), self.stem.space.weight.dtype
        conditions = self._conditions(x_BCTHW, t_B, inputs)
        if inputs.low_resolution_BCTHW is not None:
            x_BCTHW = torch.cat([x_BCTHW, inputs.low_resolution_BCTHW], dim=1)
        given_BCTHW = inputs.given_BCTHW
        given_NCHW = None if given_BCTHW is None else fold_clips(given_BCTHW.to(dtype))
        pixels_NCHW = fold_clips(x_BCTHW.to(dtype))
        x_NCHW = self.stem(pixels_NCHW, given_NCHW, conditions)
        x_NCHW = self.head(self.body(x_NCHW, conditions), conditions).float()
        return unfold_clips(x_NCHW, clips=clips)

    def _conditions(self, x_BCTHW: Tensor, t_B: Tensor, inputs: UNetInputs) -> Conditions:
        frames = x_BCTHW.shape[2]
        cond_ND, context_GLD, mask_G11L = self.conditioning(t_B, inputs, frames=frames)
        video_B, video_B111, rope_2TR = inputs.video_B, None, None
        # Whatever it holds: under ZeRO-3 all ranks have to do the same, in recomputation too.
        if video_B is not None:
            video_B111 = video_B.view(-1, 1, 1, 1).to(cond_ND)
        if self.config.time_position == "rotary" and frames > 1:
            axes = (self.config.head_width, 0, 0)
            rope_2TR = rope_table(
                (frames, 1, 1), axes=axes, theta=ROPE_THETA, device=x_BCTHW.device
            )
        seed_B = inputs.dropout_B
        return Conditions(
            cond_ND=cond_ND,
            context_GLD=context_GLD,
            mask_G11L=mask_G11L,
            rope_2TR=rope_2TR,
            video_B111=video_B111,
            frames=frames,
            dropout_N=None if seed_B is None else frame_seeds(seed_B, frames=frames),
        )


def _first(names: Collection[str]) -> str:
    """Their number and one of them."""
    return f"{len(names)} ({min(names)})" if names else "0"
