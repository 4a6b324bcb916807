"""What a training engine is: one network, its optimizer, its EMA, whole or sharded."""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn

Kind = Literal["plain", "deepspeed"]
Precision = Literal["fp32", "bf16"]
StateKey = Literal["fp32", "exp_avg", "exp_avg_sq", "ema"]
STATE_KEYS: tuple[StateKey, ...] = ("fp32", "exp_avg", "exp_avg_sq", "ema")


@dataclass(frozen=True)
class StepOutcome:
    """How an optimizer step went; the same on every rank.

    Attributes:
        applied: False if a gradient was not finite or its norm above the limit: masters, moments
            and EMA are untouched.
        grad_norm: L2 norm of the whole gradient before clipping; infinite or NaN if the gradient
            was not finite.
    """

    applied: bool
    grad_norm: float


@dataclass(frozen=True)
class Fragment:
    """The part of one parameter that this rank owns.

    Attributes:
        name: the parameter's name in the module.
        shape: the whole parameter's shape.
        start: first owned element of the flattened parameter.
        numel: owned elements, at least 1.
        tensors: flat float32 views [numel] of master, moments and EMA; writing them changes the
            engine's state.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    numel: int
    tensors: Mapping[StateKey, Tensor]


class StateReader(Protocol):
    """Where a loading engine reads from, by parameter name."""

    def read(self, key: StateKey, *, name: str, start: int, numel: int) -> Tensor:
        """Elements [start, start + numel) of a flattened parameter's state, float32, on the CPU."""
        ...


class Engine(Protocol):
    """Forward, backward and optimizer step of one network.

    All methods but ``shapes`` and ``fragments`` are collective: every rank calls them, in the
    same order.
    """

    module: nn.Module
    num_params: int  # trainable ones, whole
    grad_clip: float | None  # bound on the gradient's L2 norm

    @property
    def applied_steps(self) -> int:
        """Optimizer steps that changed the weights, over the whole training (AdamW's count)."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward pass; its parameters are in the engine's precision.

        Inputs are passed through as they are: a module that is trained in bf16 casts its floating
        inputs to its parameters' dtype and its outputs to float32 where the loss needs it.
        """
        ...

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of ``loss / accumulation`` to what this step has gathered.

        Args:
            loss: scalar, the mean over this rank's micro-batch.
        """
        ...

    def step(self, *, lr: float, limit: float = math.inf) -> StepOutcome:
        """Averages gradients over ranks, clips them, applies AdamW, updates the EMA.

        Call it after exactly ``accumulation`` calls of ``backward``.

        Args:
            lr: learning rate.
            limit: the largest norm of a gradient that is applied; the same on every rank.
        """
        ...

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Whole shapes of the trainable parameters, by name."""
        ...

    def fragments(self) -> Iterator[Fragment]:
        """What this rank owns; over all ranks every trainable element occurs exactly once."""
        ...

    def load(self, reader: StateReader, *, applied_steps: int) -> None:
        """Replaces master weights, moments, EMA and AdamW's step count."""
        ...

    def ema_weights(self) -> AbstractContextManager[None]:
        """Within it the module computes with the EMA; afterwards all is bitwise as before."""
        ...

    def gather_ema(self) -> dict[str, Tensor]:
        """Whole EMA parameters by name, float32 on the CPU, on rank 0; empty on other ranks."""
        ...
