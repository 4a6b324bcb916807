"""Floating-point operations of the diffusion transformer, by its formula (no torch).

Letters: N video tokens, L text tokens, M = N + L, D model width, R ratio of the MLP.
"""

from math import prod

from models.sora.dit_config import DiTConfig

_TIME_FEATURES = 256  # of the sinusoids, models/nn/embeddings.py


def dit_flops(
    config: DiTConfig,
    *,
    channels: int,
    grid: tuple[int, int, int],
    text_tokens: int,
    text_width: int,
) -> int:
    """FLOPs of one clip's forward pass: matrix products and attention, multiply and add apart.

    Norms, activations and biases are left out, as is usual for model FLOP/s. A training step
    without recomputation takes three times as many.

    Args:
        config: the transformer.
        channels: latent channels C.
        grid: latent frames, height, width; multiples of the patch.
        text_tokens: text tokens per clip, padding included.
        text_width: width of the text encoder's states.
    """
    shape = config.shape
    width = shape.width
    video = prod(grid) // prod(config.patch)
    features = channels * prod(config.patch)
    condition = (channels + 1) * prod(config.patch) if config.condition_frames else 0
    products = (
        video * (features + condition) * width
        + _TIME_FEATURES * width
        + width**2
        + (text_tokens + 1) * (text_width * width + width**2)
        + 2 * width**2
        + video * width * features
    )
    if shape.fusion == "cross":
        products += shape.depth * _cross_block(config, video, text_tokens)
    else:
        products += _joint_blocks(config, video, text_tokens)
    return 2 * products


def _attention(queries: int, keys: int, width: int) -> int:
    return 2 * queries * keys * width


def _stream(config: DiTConfig, tokens: int) -> int:
    width = config.shape.width
    return 6 * width**2 + tokens * (4 + 2 * config.mlp_ratio) * width**2


def _cross_block(config: DiTConfig, video: int, text: int) -> int:
    width = config.shape.width
    return (
        _stream(config, video)
        + _attention(video, video, width)
        + 2 * (video + text) * width**2
        + _attention(video, text, width)
    )


def _joint_blocks(config: DiTConfig, video: int, text: int) -> int:
    shape = config.shape
    width = shape.width
    both = video + text
    dual = _stream(config, video) + _stream(config, text) + _attention(both, both, width)
    last = _stream(config, video) + (2 + 2 * text) * width**2 + _attention(video, both, width)
    single = 3 * width**2 + both * (4 + 2 * config.mlp_ratio) * width**2
    single += _attention(both, both, width)
    ends_dual = shape.depth > 0 and shape.single_depth == 0
    return (shape.depth - ends_dual) * dual + ends_dual * last + shape.single_depth * single
