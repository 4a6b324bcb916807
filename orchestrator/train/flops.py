"""Networks on the meta device, and the FLOPs of their forward passes there."""

from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.config import RGB
from models.make_a_video.prior import Prior
from models.nn.unet import SpaceTimeUNet
from models.nn.unet_config import UNetConfig
from models.nn.unet_inputs import UNetInputs
from models.text.states import TextStates

Module = TypeVar("Module", bound=nn.Module)
_FILLING = frozenset(
    {
        *(Tensor.normal_, Tensor.uniform_, Tensor.zero_, Tensor.fill_),
        *(nn.init.normal_, nn.init.uniform_, nn.init.constant_, nn.init.kaiming_uniform_),
    }
)
# What follows on shapes alone is not run: on meta, torch takes each of these apart in Python.
_SAME_SHAPE = frozenset({F.group_norm, F.layer_norm, F.rms_norm, F.silu, F.gelu})
_SUMS = frozenset({Tensor.add, Tensor.__add__, Tensor.mul, Tensor.__mul__})


def on_meta(build: Callable[[], Module]) -> Module:
    """A module without memory; its initialisers are not run."""
    with torch.device("meta"), _Unfilled():
        return build()


def forward_flops(module: nn.Module, *inputs: object) -> float:
    """FLOPs of one forward pass: convolutions, linear layers and attention.

    Multiply and add are counted apart; norms, activations and biases are not counted.

    Args:
        module: on the meta device.
        inputs: what its forward takes, on the meta device.
    """
    with torch.no_grad(), _Counted() as counted:
        module(*inputs)
    return float(counted.flops)


def unet_flops(
    config: UNetConfig, *, clip: tuple[int, int, int], text_width: int | None, text_tokens: int = 16
) -> float:
    """FLOPs of one clip's forward pass through a space-time U-Net.

    Args:
        config: the network.
        clip: frames, height, width.
        text_width: of the text encoder's states, for a network that reads text.
        text_tokens: of the caption.
    """
    unet = on_meta(lambda: SpaceTimeUNet(config, text_width=text_width))
    return built_unet_flops(unet, clip=clip, text_tokens=text_tokens)


def built_unet_flops(unet: SpaceTimeUNet, *, clip: tuple[int, int, int], text_tokens: int) -> float:
    """``unet_flops`` of a network that is on the meta device already."""
    inputs = meta_inputs(
        unet.config, clip=clip, text_width=unet.text_width, text_tokens=text_tokens
    )
    x_B3THW = torch.empty(1, RGB, *clip, device="meta")
    return forward_flops(unet.eval(), x_B3THW, torch.empty(1, device="meta"), inputs)


def prior_flops(prior: Prior) -> float:
    """FLOPs of one caption's forward pass: matrix products of the blocks, per weight and token."""
    weights = sum(parameter.numel() for parameter in prior.layers.parameters())
    return 2.0 * weights * prior.config.text_tokens


def meta_inputs(
    config: UNetConfig, *, clip: tuple[int, int, int], text_width: int | None, text_tokens: int
) -> UNetInputs:
    """All that a network reads for one clip, on the meta device and without values."""
    with torch.device("meta"):
        text = None
        if text_width is not None:
            text = TextStates(
                tokens_BLD=torch.empty(1, text_tokens, text_width),
                mask_BL=torch.empty(1, text_tokens, dtype=torch.bool),
                pooled_BD=torch.empty(1, text_width),
            )
        return UNetInputs(
            text=text,
            image_embedding_GE=(
                None if config.image_embedding is None else torch.empty(1, config.image_embedding)
            ),
            fps_B=torch.empty(1) if config.fps else None,
            augmentation_B=torch.empty(1) if config.augmentation else None,
            low_resolution_BCTHW=torch.empty(1, RGB, *clip) if config.low_resolution else None,
            given_BCTHW=torch.empty(1, RGB + 1, *clip) if config.given_frames else None,
        )


class _Unfilled(TorchFunctionMode):
    """Initialisers give back what they are given: a tensor on meta has no values to set."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class _Counted(TorchFunctionMode):
    """Adds up what the calls inside take.

    torch.utils.flop_counter gives the same, in many times the time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _SAME_SHAPE or (func in _SUMS and _same_shape(args)):
            return args[0]
        if func is torch.addcmul:
            return max(args, key=Tensor.numel)
        if func is torch.arange and len(args) == 1:
            dtype = (kwargs or {}).get("dtype", torch.int64)
            return torch.empty(args[0], dtype=dtype, device="meta")  # its own imports seconds
        if func is F.linear:
            result = args[0].new_empty(*args[0].shape[:-1], len(args[1]))
        else:
            result = func(*args, **(kwargs or {}))
        if func in (F.linear, F.conv2d, F.conv3d):  # one output of each takes a row of weights
            self.flops += 2 * result.numel() * prod(args[1].shape[1:])
        elif func is F.scaled_dot_product_attention:
            queries, keys, values = args[:3]
            per_pair = queries.shape[-1] + values.shape[-1]
            self.flops += 2 * prod(queries.shape[:-1]) * keys.shape[-2] * per_pair
        return result


def _same_shape(args: tuple[Any, ...]) -> bool:
    return all(isinstance(one, Tensor) and one.shape == args[0].shape for one in args)
