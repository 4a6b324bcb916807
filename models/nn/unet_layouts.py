"""The two ways in which a U-Net's layers are wired.

Shape letters: N frames of all clips, C channels, H W height and width.
"""

from torch import Tensor, nn

from models.nn.frames import double
from models.nn.temporal import PseudoConv
from models.nn.unet_blocks import Conditions, Layer
from models.nn.unet_config import UNetConfig


class AdmBody(nn.Module):
    """Blocks, then halving; a skip connection from every layer on the way down.

    Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 3 and their published code, the
    U-Net of GLIDE and DALL-E 2 as well. One more block per level on the way up, and two blocks
    with attention between them in the middle. There it is attention of the last level: a network
    with no attention level, as DALL-E 2's upsamplers (arXiv:2204.06125, section 2.2), is fully
    convolutional.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        widths, depths = config.widths, config.depths
        last = len(widths) - 1
        channels, skips = config.width, [config.width]
        down: list[Layer] = []
        for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for _ in range(depth):
                down.append(Layer(channels, width, config=config, level=level))
                skips.append(width)
                channels = width
            if level < last:
                down.append(Layer(width, width, config=config, level=None, resample="down"))
                skips.append(width)
        middle = [Layer(channels, channels, config=config, level=level) for level in (last, None)]
        up: list[Layer] = []
        for level in reversed(range(last + 1)):
            width = widths[level]
            for _ in range(depths[level] + 1):
                skip = skips.pop()
                up.append(Layer(channels, width, config=config, level=level, skip_channels=skip))
                channels = width
            if level:
                up.append(Layer(width, width, config=config, level=None, resample="up"))
        self.down, self.middle, self.up = map(nn.ModuleList, (down, middle, up))
        self.out_channels = channels

    def forward(self, x_NCHW: Tensor, conditions: Conditions) -> Tensor:
        """[N, config.width, H, W] to [N, out_channels, H, W]."""
        skips = [x_NCHW]
        for layer in self.down:
            x_NCHW = layer(x_NCHW, conditions)
            skips.append(x_NCHW)
        for layer in self.middle:
            x_NCHW = layer(x_NCHW, conditions)
        for layer in self.up:
            x_NCHW = layer(x_NCHW, conditions, skips.pop() if layer.has_skip else None)
        return x_NCHW


class DownLevel(nn.Module):
    """Halves, then works: a level of the efficient layout on the way down."""

    def __init__(self, in_channels: int, *, config: UNetConfig, level: int) -> None:
        super().__init__()
        width, depth = config.widths[level], config.depths[level]
        self.shrink = PseudoConv(in_channels, width, kernel=config.kernel_over_time, stride=2)
        self.layers = nn.ModuleList(
            Layer(width, width, config=config, level=level if index == depth - 1 else None)
            for index in range(depth)
        )

    def forward(self, x_NCHW: Tensor, conditions: Conditions) -> Tensor:
        """Returns [N, C', H / 2, W / 2]."""
        x_NCHW = self.shrink(x_NCHW, frames=conditions.frames, video_B111=conditions.video_B111)
        for layer in self.layers:
            x_NCHW = layer(x_NCHW, conditions)
        return x_NCHW


class UpLevel(nn.Module):
    """Works, then doubles: a level of the efficient layout on the way up."""

    def __init__(
        self, out_channels: int, *, config: UNetConfig, level: int, skip_channels: int
    ) -> None:
        super().__init__()
        width, depth = config.widths[level], config.depths[level]
        self.layers = nn.ModuleList(
            Layer(
                width,
                width,
                config=config,
                level=level if index == depth - 1 else None,
                skip_channels=skip_channels if index == 0 else 0,
            )
            for index in range(depth)
        )
        self.grow = PseudoConv(width, out_channels, kernel=config.kernel_over_time)

    def forward(self, x_NCHW: Tensor, conditions: Conditions, skip_NCHW: Tensor | None) -> Tensor:
        """Returns [N, out_channels, 2 * H, 2 * W]."""
        for index, layer in enumerate(self.layers):
            x_NCHW = layer(x_NCHW, conditions, skip_NCHW if index == 0 else None)
        return self.grow(double(x_NCHW), frames=conditions.frames, video_B111=conditions.video_B111)


class EfficientBody(nn.Module):
    """Halving, then blocks, so that little work is left at high resolution.

    Source: the Efficient U-Net of Imagen, Saharia et al. 2022, arXiv:2205.11487, appendix B:
    more blocks at low resolution (``blocks`` per level), skip connections times 1/sqrt(2)
    (``skip_scale``; Song et al., whom they cite, scale the sums of residual blocks instead), a
    strided convolution before the blocks of a level and an upsampling one after them. One skip
    connection per level; the paper does not say whether it is joined or added. It is joined, as
    in imagen-pytorch, whose last block we take over too: at full resolution, with the output of
    the first convolution joined again.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        before = (config.width, *config.widths)  # channels that each level starts from
        last = len(config.widths) - 1
        self.down = nn.ModuleList(
            DownLevel(before[level], config=config, level=level) for level in range(last + 1)
        )
        self.up = nn.ModuleList(
            UpLevel(
                before[level],
                config=config,
                level=level,
                # The deepest level goes on with its own output: nothing to join.
                skip_channels=config.widths[level] if level < last else 0,
            )
            for level in reversed(range(last + 1))
        )
        self.out_channels = config.width
        self.final = Layer(
            config.width, config.width, config=config, level=None, skip_channels=config.width
        )

    def forward(self, x_NCHW: Tensor, conditions: Conditions) -> Tensor:
        """[N, config.width, H, W] to [N, out_channels, H, W]."""
        skips = [x_NCHW]
        for level in self.down:
            x_NCHW = level(x_NCHW, conditions)
            skips.append(x_NCHW)
        skips.pop()
        for index, level in enumerate(self.up):
            x_NCHW = level(x_NCHW, conditions, skips.pop() if index else None)
        return self.final(x_NCHW, conditions, skips.pop())
