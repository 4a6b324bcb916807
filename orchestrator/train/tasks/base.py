"""What a trainer must know of a stage, whatever its networks are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from orchestrator.data.index import Bucket
from orchestrator.data.packing import Image
from orchestrator.train.randomness import SlotRandom


@dataclass(frozen=True)
class Micro:
    """The clips of one forward pass on this rank.

    Attributes:
        samples: decoded members of each clip, by extension.
        captions: wordings of each clip; none for a network that reads no text.
        fps: frames per second of each stored clip.
        packed: images of other clips that a slot holds instead of its own, or none.
        random: draws per global sample slot.
        step: optimizer step that these clips belong to, from 0.
        images: True if this step sees only the first frame of each clip.
    """

    samples: tuple[Mapping[str, Any], ...]
    captions: tuple[tuple[str, ...], ...]
    fps: tuple[float, ...]
    packed: tuple[tuple[Image, ...], ...]
    random: SlotRandom
    step: int
    images: bool


@dataclass(frozen=True)
class Loss:
    """What one forward pass gives.

    Attributes:
        value: a scalar to go backward from.
        stats: detached scalars, of which the mean over forward passes and ranks is logged.
        weights: what some of them are sums over, detached scalars; 1 for all others. A mean of
            which all weights are 0 is not logged.
    """

    value: Tensor
    stats: dict[str, Tensor]
    weights: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def guarded(self) -> Tensor:
        """The value, bit by bit, with a gradient that is not finite where the value is not.

        So a loss that is not finite on one rank shows in the norm on all of them, without a look
        at it, also where its own gradient would be finite.
        """
        return self.value * (1.0 + 0.0 * self.value.detach())


@dataclass(frozen=True)
class Work:
    """What one clip takes of its first network.

    Attributes:
        units: tokens, latent positions or pixels, for throughput.
        flops: forward and backward, multiply and add counted apart.
    """

    units: int
    flops: float


class Forward(Protocol):
    """A network as the task sees it: an engine or a bare module."""

    module: nn.Module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the forward pass in the engine's precision."""
        ...


class Task(Protocol):
    """Networks of a stage and their losses."""

    networks: dict[str, nn.Module]  # in the order in which they step; the first one is exported

    def work(self, bucket: Bucket) -> Work:
        """What one stored clip of that many frames, height and width takes."""
        ...

    def blocks(self) -> list[nn.Module]:
        """What is compiled or recomputed one by one."""
        ...

    def is_active(self, network: str, *, step: int) -> bool:
        """Whether the network takes part in this step."""
        ...

    def loss(self, network: str, engines: Mapping[str, Forward], micro: Micro) -> Loss:
        """Forward pass and loss of one network on one micro-batch."""
        ...

    def lr_scale(self, network: str, name: str) -> float:
        """Learning rate of a weight as a share of the schedule's."""
        ...

    def start_from(self, weights: Mapping[str, Tensor], *, stage: str) -> None:
        """Loads another stage's EMA weights into the first network.

        Raises:
            UserError: if they do not fit.
        """
        ...

    def config(self) -> dict[str, Any]:
        """What ``weights/config.json`` says beside the weights."""
        ...
