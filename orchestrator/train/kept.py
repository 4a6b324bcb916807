"""What a forward pass keeps for its backward pass, counted on the meta device.

Autograd's rule for each call is written down here, as torch's own formulas have it: a linear layer
keeps its input, a product both factors. Views share the memory of what they view, so what counts
are whole storages, each once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from orchestrator.train.flops import (
    BROADCAST,
    SAME_SHAPE,
    first_of,
    flops_of,
    on_shapes,
    shape_of,
)
from orchestrator.train.shapes import SHAPES, empty_like

Device = Literal["cpu", "cuda"]
_PRODUCTS = frozenset(
    {Tensor.mul, Tensor.__mul__, Tensor.__rmul__, Tensor.matmul, Tensor.__matmul__}
)
_SUMMED = frozenset({F.linear, F.conv1d, F.conv2d, F.conv3d})
_KEEP_INPUT = frozenset(
    {
        *(F.silu, F.gelu, F.leaky_relu, F.relu, F.avg_pool2d, Tensor.clamp),
        *(Tensor.square, Tensor.abs, Tensor.log, torch.log, Tensor.amax),
    }
)


@dataclass(frozen=True)
class Forward:
    """One forward pass.

    Attributes:
        whole: bytes that it keeps.
        between: with every block recomputed, what is kept outside of them and their inputs.
        block: what the largest block keeps.
        flops: multiply and add apart.
        block_flops: those of the blocks.
    """

    whole: int
    between: int
    block: int
    flops: float
    block_flops: float


def watch(
    module: nn.Module, *inputs: object, blocks: Iterable[nn.Module], device: Device
) -> Forward:
    """Runs a module's forward pass on shapes alone.

    Args:
        module: on the meta device, in the dtype that it trains in.
        inputs: what it takes, on the meta device.
        blocks: those of its modules that can be recomputed one by one; changed by it.
        device: whose kernels are counted.
    """
    mode = _Watched(module, device=device)
    for block in blocks:
        _tell(block, mode)
    with torch.enable_grad(), mode:
        module(*inputs)
    return Forward(
        whole=sum(mode.whole.values()),
        between=sum(mode.between.values()),
        block=mode.largest,
        flops=float(mode.flops),
        block_flops=float(mode.block_flops),
    )


def _tell(block: nn.Module, mode: "_Watched") -> None:
    forward = block.forward

    def told(*args: Any, **kwargs: Any) -> Any:
        with mode.inside((*args, *kwargs.values())):
            return forward(*args, **kwargs)

    block.forward = told


class _Watched(TorchFunctionMode):
    """Adds up storages by their address; holds them, so that no address comes twice."""

    def __init__(self, module: nn.Module, *, device: Device) -> None:
        super().__init__()
        self.whole: dict[int, int] = {}
        self.between: dict[int, int] = {}
        self.largest = 0
        self.flops = self.block_flops = 0
        self._block: dict[int, int] | None = None
        self._held: list[Tensor] = []
        self._cuda = device == "cuda"
        self._weights = {_address(one) for one in (*module.parameters(), *module.buffers())}

    @contextmanager
    def inside(self, args: tuple[Any, ...]) -> Iterator[None]:
        """Within a block; its inputs are kept whether it is recomputed or not."""
        for one in _tensors(args):
            self._add(self.between, one)
        before, self._block = self.flops, {}
        try:
            yield
        finally:
            self.largest = max(self.largest, sum(self._block.values()))
            self._block = None
            self.block_flops += self.flops - before

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            result = _graded(self._attended(args[0], args[2], mask=kwargs.get("attn_mask")), args)
        else:
            result = _called(func, args, kwargs)
        self.flops += flops_of(func, args, result)
        if isinstance(result, Tensor) and result.requires_grad:
            self._rules(func, args, kwargs, result)
        return result

    def _attended(self, q: Tensor, v: Tensor, *, mask: Tensor | None) -> Tensor:
        clips, heads, tokens, _ = q.shape
        # The kernel of CUDA that takes a mask writes the heads of a token side by side.
        if self._cuda and mask is not None:
            return q.new_empty(clips, tokens, heads, v.shape[-1]).transpose(1, 2)
        return q.new_empty(clips, heads, tokens, v.shape[-1])

    def keep(self, tensor: Tensor) -> None:
        """A tensor, or what it views, once."""
        self._add(self.whole, tensor)
        self._add(self.between if self._block is None else self._block, tensor)

    def keep_new(self, tensor: Tensor, *, value_bytes: int | None = None) -> None:
        """A copy of a tensor that nothing else has, perhaps in another dtype."""
        size = tensor.numel() * (value_bytes or tensor.element_size())
        self.keep(torch.empty(size, dtype=torch.uint8, device="meta"))

    def _add(self, found: dict[int, int], tensor: Tensor) -> None:
        address = _address(tensor)
        if address not in self._weights and address not in found:
            found[address] = tensor.untyped_storage().nbytes()
            self._held.append(tensor)

    def _rules(
        self, func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], result: Tensor
    ) -> None:
        if func in _SUMMED:
            self._keep_whole(args[0], is_linear=func is F.linear)
        elif func in _KEEP_INPUT:
            self.keep(args[0])
        elif func in (Tensor.exp, torch.exp, Tensor.softmax):
            self.keep(result)
        elif func in _PRODUCTS:
            self._keep_factors(*args[:2])
        elif func is torch.addcmul:
            self._keep_factors(*args[1:3])
        elif func is F.group_norm:
            self._keep_groups(args[0], groups=args[1])
        elif func is F.layer_norm:
            self.keep(args[0])
            self._keep_statistics(2 * args[0].numel() // args[0].shape[-1])
        elif func is F.rms_norm:
            self._keep_rms(args[0])
        elif func is Tensor.masked_fill:
            self.keep(args[1])
        elif func is F.scaled_dot_product_attention:
            self._keep_attention(*args[:3], mask=kwargs.get("attn_mask"), result=result)

    def _keep_whole(self, x: Tensor, *, is_linear: bool) -> None:
        # A linear layer of more than one dimension is a product of matrices: of a copy, where the
        # tokens do not lie one after another.
        if is_linear and x.ndim > 2 and not x.is_contiguous():
            self.keep_new(x)
        else:
            self.keep(x)

    def _keep_factors(self, a: Any, b: Any) -> None:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if b.requires_grad:
                self.keep(a)
            if a.requires_grad:
                self.keep(b)

    def _keep_groups(self, x: Tensor, *, groups: int) -> None:
        # CUDA's kernel wants channels first and is given a copy.
        if self._cuda and not x.is_contiguous():
            self.keep_new(x)
        else:
            self.keep(x)
        self._keep_statistics(2 * len(x) * groups)

    def _keep_statistics(self, count: int) -> None:
        self.keep(torch.empty(count, dtype=torch.float32, device="meta"))

    def _keep_rms(self, x: Tensor) -> None:
        self._keep_statistics(x.numel() // x.shape[-1])
        if self._cuda:
            self.keep(x)
            return
        # Taken apart on the CPU, in float32: the input there, and what is scaled by the weights.
        self.keep(x if x.dtype == torch.float32 else x.float())
        self.keep(empty_like(x, dtype=torch.float32))

    def _keep_attention(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, result: Tensor
    ) -> None:
        if mask is not None and mask.requires_grad and not self._cuda:
            # No fused kernel of the CPU has a gradient for the mask.
            for one in (q, k):
                self.keep_new(one)
            self.keep(v)
            self.keep_new(q.new_empty(*q.shape[:-1], k.shape[-2]))
            return
        for one in (q, k, v, result):
            self.keep(one)
        self._keep_statistics(q.numel() // q.shape[-1])
        if mask is not None:
            self.keep_new(mask, value_bytes=q.element_size())


def _called(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
    """What a call gives, in memory of its own wherever torch gives new memory."""
    if func in SAME_SHAPE:
        dtype = kwargs.get("dtype", args[0].dtype)
        return _graded(empty_like(args[0], dtype=dtype), args)
    if func in BROADCAST:
        return _graded(_broadcast(func, args), args)
    if func in SHAPES:
        return _graded(_shaped(func, args, kwargs), args)
    return on_shapes(func, args, kwargs)


def _broadcast(func: Callable[..., Any], args: Any) -> Tensor:
    tensors = list(_tensors(args))
    largest = max(tensors, key=Tensor.numel)
    shape = shape_of(func, args, {})
    dtype = reduce(
        torch.promote_types, [one.dtype for one in tensors if one.ndim or one is largest]
    )
    if largest.shape == shape:
        return empty_like(largest, dtype=dtype)
    return largest.new_empty(shape, dtype=dtype)


def _shaped(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Tensor:
    like, shape = first_of(args), shape_of(func, args, kwargs)
    last = torch.contiguous_format
    if func not in _PRODUCTS:
        last = _channels_last(like, dims=len(shape))
    dtype = args[1].dtype if func in (F.linear, F.embedding) else like.dtype
    if func is Tensor.sum and not like.is_floating_point():
        dtype = torch.int64
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=last)


def _channels_last(like: Tensor, *, dims: int) -> torch.memory_format:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    found = formats.get(like.ndim) if like.ndim == dims else None
    if found is None or like.is_contiguous() or not like.is_contiguous(memory_format=found):
        return torch.contiguous_format
    return found


def _graded(result: Tensor, args: Any) -> Tensor:
    if result.is_floating_point() and any(one.requires_grad for one in _tensors(args)):
        result.requires_grad_()
    return result


def _tensors(args: Any) -> Iterator[Tensor]:
    """Of arguments, and of the tuples among them."""
    for one in args:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, tuple | list):
            yield from _tensors(one)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
