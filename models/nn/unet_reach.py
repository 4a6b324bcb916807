"""What a U-Net's configuration says of a forward pass: how much it holds, how far frames reach."""

from collections.abc import Iterator

from models.nn.unet_config import UNetConfig

ATTENTION_MAPS = 9  # of one attention: its norm, q, k and v, both normed and turned, out, update
DOUBLED_MAPS = (
    6  # of a block that doubles: input, shortcut, one convolution over space, one over time
)


def peak_values(config: UNetConfig) -> float:
    """Values alive at once in a forward pass without gradients, per pixel of the clip.

    Counted from the layers as they are written, an eager pass that keeps what it still refers to:
    the skip connections, a layer's input, what that is joined with, and the norm's two copies of
    it (CUDA's group norm makes one of channels_last memory, and its result is brought back to
    that). Attention weights are not in it: no kernel that is used for long sequences stores them.
    """
    return max(_adm(config) if config.layout == "adm" else _efficient(config))


def temporal_reach(config: UNetConfig) -> int | None:
    """From how many frames before and after a frame comes what is seen of it.

    0 if no layer mixes frames, None if all frames of a clip see each other: in attention, or
    because what is expected of a frame comes from known ones, however far.
    """
    if config.temporal_attention or (config.given_frames and config.expected_std is not None):
        return None
    if not config.temporal_conv:
        return 0
    levels, blocks = len(config.depths), sum(config.depths)
    if config.layout == "adm":
        # Down and up, the middle, and the layers that halve and double.
        layers = blocks + 2 + blocks + levels + 2 * (levels - 1)
        single = 0
    else:
        layers, single = 2 * blocks + 1, 2 * levels
    # Two convolutions per layer; the first and the last one.
    return (2 * layers + single + 2) * (config.temporal_kernel // 2)


def _adm(config: UNetConfig) -> Iterator[float]:
    """Per level: the first layer on the way up, with the widest input, and the one before it."""
    widths, held = config.widths, 0.0
    for level, (width, depth) in enumerate(zip(widths, config.depths, strict=True)):
        share = 0.25**level
        held += share * (depth * width + (widths[level - 1] if level else config.width))
        below = widths[min(level + 1, len(widths) - 1)]
        yield held + share * DOUBLED_MAPS * below  # the layer that doubles what comes from below
        yield held + share * below + share * _layer(config, level, joined=below + width)


def _efficient(config: UNetConfig) -> Iterator[float]:
    """The last layer at full resolution, then per level its layers and what they grow into."""
    held, finer = float(config.width), config.width
    yield 2 * held + _layer(config, None, joined=2 * config.width)
    for level, width in enumerate(config.widths):
        share = 0.25**level
        yield held + share * (1.5 * width + 3 * finer)
        held += share / 4 * width
        yield held + share / 4 * (width + _layer(config, level, joined=2 * width))
        finer = width


def _layer(config: UNetConfig, level: int | None, *, joined: int) -> float:
    """A residual block on so many channels and the attention after it."""
    width = config.width if level is None else config.widths[level]
    attends = level is not None and any(
        level in levels
        for levels in (config.attention, config.context_attention, config.temporal_attention)
    )
    scaled = width if config.skip_scale else 0
    block = joined + max(2 * joined, joined + 3 * width, 4 * width)
    return max(scaled + block, scaled + joined + ATTENTION_MAPS * width if attends else 0)
