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
from orchestrator.train.shapes import SHAPES, broadcast

TEACHER_PASSES = 2  # forward, per clip: with a caption and without, or two steps
Module = TypeVar("Module", bound=nn.Module)
_FILLING = frozenset(
    {
        *(Tensor.normal_, Tensor.uniform_, Tensor.zero_, Tensor.fill_),
        *(nn.init.normal_, nn.init.uniform_, nn.init.constant_, nn.init.kaiming_uniform_),
    }
)
# What follows on shapes alone is not run: on meta, torch takes each of these apart in Python.
SAME_SHAPE = frozenset(
    {
        *(F.group_norm, F.layer_norm, F.rms_norm, F.normalize, F.silu, F.gelu),
        *(Tensor.exp, torch.exp, Tensor.log, torch.log, Tensor.cos, Tensor.sin, Tensor.clamp),
        *(Tensor.clamp_min, Tensor.clamp_max, Tensor.flip, Tensor.sqrt),
        *(Tensor.masked_fill, Tensor.softmax),
        *(torch.ones_like, torch.zeros_like, torch.full_like),
        *(Tensor.__invert__, Tensor.tril, Tensor.neg, Tensor.__neg__),
    }
)
BROADCAST = frozenset(
    {
        *(Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.sub, Tensor.__sub__),
        *(Tensor.__rsub__, Tensor.pow, Tensor.__pow__, torch.where),
        *(Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.addcmul, torch.lerp),
        *(Tensor.div, Tensor.__truediv__, Tensor.__rtruediv__),
        *(Tensor.__and__, Tensor.__xor__, Tensor.__rshift__),
    }
)
_COMPARED = frozenset(
    {
        *(Tensor.__lt__, Tensor.__le__, Tensor.__gt__, Tensor.__ge__),
        *(Tensor.__eq__, Tensor.__ne__, Tensor.lt, Tensor.le, Tensor.gt, Tensor.ge),
    }
)
_ROWS = frozenset({F.linear, F.conv1d, F.conv2d, F.conv3d})  # an output takes a row of weights


def on_meta(build: Callable[[], Module]) -> Module:
    """A module without memory; its initialisers are not run."""
    with torch.device("meta"), _Unfilled():
        return build()


def forward_flops(module: Callable[..., Any], *inputs: object) -> float:
    """FLOPs of one forward pass: convolutions, linear layers and attention.

    Multiply and add are counted apart; norms, activations and biases are not counted.

    Args:
        module: on the meta device; or one of its methods.
        inputs: what that takes, on the meta device.
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


def training_flops(forward: float, *, is_student: bool) -> float:
    """FLOPs of training on one clip, from those of a forward pass.

    A backward pass takes twice as many; a student's teacher answers in passes of its own.
    """
    return (3.0 + TEACHER_PASSES * is_student) * forward


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
        args: Any = (),
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
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in SAME_SHAPE:
            return args[0]
        if func in BROADCAST:
            return _broadcast(args)
        kwargs = kwargs or {}
        if func in SHAPES:
            result = first_of(args).new_empty(shape_of(func, args, kwargs))
        else:
            result = on_shapes(func, args, kwargs)
        self.flops += flops_of(func, args, result)
        return result


def on_shapes(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
    """What a call gives on meta, without what torch would import for it there."""
    if func is torch.arange and len(args) == 1 and str(kwargs.get("device")) != "cpu":
        dtype = kwargs.get("dtype", torch.int64)
        return torch.empty(args[0], dtype=dtype, device="meta")  # its own imports seconds
    if func is Tensor.__getitem__ and _picks_columns(args[1]):
        return args[0].new_empty(len(args[0]), *args[1][1].shape)
    if func is Tensor.__getitem__ and _picks_rows(args[1]):
        picked = args[0].new_empty(*args[1].shape, *args[0].shape[1:])
        return picked.requires_grad_(args[0].requires_grad)
    if func in _COMPARED:
        return first_of(args).new_empty(shape_of(torch.addcmul, args, {}), dtype=torch.bool)
    return func(*args, **kwargs)


def shape_of(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of what a call gives: of one that is in SHAPES or BROADCAST."""
    if func in BROADCAST:
        return broadcast(*(one.shape for one in _tensors(args)))
    return SHAPES[func](*args, **kwargs)


def flops_of(func: Callable[..., Any], args: Any, result: Any) -> int:
    """FLOPs of a call; 0 for all but convolutions, linear layers and attention."""
    if func in _ROWS:
        return 2 * result.numel() * prod(args[1].shape[1:])
    if func is F.scaled_dot_product_attention:
        queries, keys, values = args[:3]
        per_pair = queries.shape[-1] + values.shape[-1]
        return 2 * prod(queries.shape[:-1]) * keys.shape[-2] * per_pair
    return 0


def first_of(args: Any) -> Tensor:
    """The first tensor of a call's arguments, or of the list that it takes."""
    return args[0] if isinstance(args[0], Tensor) else args[0][0]


def _tensors(args: Any) -> list[Tensor]:
    return [one for one in args if isinstance(one, Tensor)]


def _picks_rows(index: Any) -> bool:
    """Whether it is [tensor], of numbers."""
    return isinstance(index, Tensor) and index.dtype == torch.int64


def _picks_columns(index: Any) -> bool:
    """Whether it is [:, tensor]."""
    return (
        isinstance(index, tuple)
        and len(index) == 2
        and index[0] == slice(None)
        and isinstance(index[1], Tensor)
    )


def _broadcast(args: tuple[Any, ...]) -> Tensor:
    largest = max(_tensors(args), key=Tensor.numel)
    shape = shape_of(torch.addcmul, args, {})
    return largest if largest.shape == shape else largest.new_empty(shape)
