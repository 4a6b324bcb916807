"""Where DeepSpeed 0.19.8 keeps what a rank owns. Touches its private attributes.

``tests/contract/test_deepspeed_private.py`` asserts what this file relies on; DeepSpeed is pinned
to the version that it was written for.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Slice:
    """A part of one parameter inside a flat partition."""

    name: str
    shape: tuple[int, ...]
    start: int  # in the flattened parameter
    numel: int
    offset: int  # in the flat partition


@dataclass(frozen=True)
class Partition:
    """One flat float32 tensor of masters that the optimizer steps, and what lies in it."""

    flat: torch.nn.Parameter
    slices: tuple[Slice, ...]


def partitions(engine: Any) -> list[Partition]:
    """This rank's flat masters, in the order in which the optimizer knows them."""
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() == 3:
        rank = dist.get_rank(group=optimizer.dp_process_group)
        return [
            Partition(flat=flat, slices=tuple(_stage_3_slices(group, names=names, rank=rank)))
            for group, flat in zip(
                optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True
            )
        ]
    if hasattr(optimizer, "bf16_groups"):  # BF16_Optimizer: stage 1 in bf16
        groups, flats = optimizer.bf16_groups, optimizer.fp32_groups_flat_partition
    else:
        groups, flats = optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups
    return [
        Partition(flat=flat, slices=tuple(_stage_1_or_2_slices(group, names=names)))
        for group, flat in zip(groups, flats, strict=True)
    ]


def _stage_3_slices(group: Any, *, names: dict[Any, str], rank: int) -> Iterator[Slice]:
    offset = 0
    for parameter in group:
        padded = parameter.ds_tensor.ds_numel
        start = rank * padded
        numel = min(padded, parameter.ds_numel - start)
        if numel > 0:  # the last ranks may hold nothing but padding
            shape = tuple(parameter.ds_shape)
            yield Slice(names[parameter], shape, start=start, numel=numel, offset=offset)
        offset += padded


def _stage_1_or_2_slices(group: Any, *, names: dict[Any, str]) -> Iterator[Slice]:
    for parameter in group:
        mapping = parameter._hp_mapping
        if mapping is not None:
            low, high = mapping.lp_fragment_address, mapping.get_hp_fragment_address()
            shape = tuple(parameter.shape)
            yield Slice(
                names[parameter], shape, start=low.start, numel=low.numel, offset=high.start
            )


@torch.no_grad()
def push_masters(engine: Any) -> None:
    """Makes the module compute with the masters as they are now; collective."""
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() != 3:
        optimizer.update_lp_params()
        return
    # A forward pass without gradients may have left parameters gathered, with their old values.
    optimizer._partition_all_parameters()
    for group in range(len(optimizer.fp16_groups)):
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
    if optimizer.persistent_parameters:
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def adamw_state(engine: Any, flat: Tensor) -> dict[str, Tensor]:
    """The wrapped AdamW's state of a flat partition."""
    return engine.optimizer.optimizer.state[flat]


def set_adamw_state(engine: Any, flat: Tensor, state: dict[str, Tensor]) -> None:
    """Gives a flat partition its state before AdamW would make it at its first step."""
    engine.optimizer.optimizer.state[flat] = state


def clear_gradients(engine: Any) -> None:
    """Empties the buffer of reduced gradients after a step.

    Stage 3 never does: a parameter that takes no part in a step would be updated with the
    gradient of the last step that it took part in.
    """
    if engine.zero_optimization_stage() == 3:
        engine.optimizer.grad_partitions_flat_buffer.zero_()


def check_overflow_by_norm(engine: Any) -> None:
    """Leaves the finite check to the gradient norm, which DeepSpeed reads anyway.

    Stage 2 in bf16 otherwise scans all gradients a second time, with a host sync of its own.
    """
    if hasattr(engine.optimizer, "check_overflow"):
        engine.optimizer.check_overflow = _checks_nothing


def _checks_nothing(partition_gradients: bool = True) -> None:
    del partition_gradients


class Look:
    """What DeepSpeed asks, instead of its own check, whether a gradient's norm refuses the step.

    Attributes:
        norm: what it was asked about; infinite for a gradient that was not finite.
    """

    def __init__(self, *, limit: float) -> None:
        self.norm = math.nan
        self._limit = limit

    def __call__(self, norm: Any) -> bool:
        """Whether the step is refused; waits for the device, as DeepSpeed's own check does."""
        value = float(norm)
        # DeepSpeed's name for a norm that is not finite is -1.
        self.norm = value if math.isfinite(value) and value >= 0.0 else math.inf
        return self.norm == math.inf or self.norm > self._limit


@contextmanager
def limited_norm(engine: Any, *, limit: float) -> Iterator[Look]:
    """Within it a step whose gradient's norm is above ``limit`` is one that overflows."""
    module: Any = sys.modules[type(engine.optimizer).__module__]
    look, own = Look(limit=limit), module.is_invalid_grad_norm
    module.is_invalid_grad_norm = look
    try:
        yield look
    finally:
        module.is_invalid_grad_norm = own
