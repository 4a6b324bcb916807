"""What a plan has to know of a stage: counted elsewhere, where torch may be imported."""

from dataclasses import dataclass
from functools import cached_property

PERSISTENT_ELEMENTS = 4_096  # as orchestrator/train/engine/zero.py has it


@dataclass(frozen=True)
class Activations:
    """Bytes that one clip's forward pass keeps for its backward pass.

    Attributes:
        whole: without recomputation.
        between: with it, what is kept outside of the blocks, their inputs among it.
        block: what the largest block keeps while it is recomputed.
    """

    whole: int
    between: int
    block: int

    def peak(self, *, checkpointing: bool) -> int:
        """The most that is alive at once."""
        return min(self.between + self.block, self.whole) if checkpointing else self.whole


@dataclass(frozen=True)
class Network:
    """A network that a stage trains, in an engine of its own.

    Attributes:
        name: as the task calls it.
        trained: weights that the optimizer steps, tensor by tensor.
        frozen: weights inside it that stay as they are.
        activations: of one clip.
        forward: FLOPs of one clip's forward pass, multiply and add apart.
        recomputed: the part of them that is done twice with activation checkpointing.
        exchanged: values that GPUs which share a clip would send in its forward pass, all of them
            together; 0 for a network whose clips cannot be shared.
    """

    name: str
    trained: tuple[int, ...]
    frozen: int
    activations: Activations
    forward: float
    recomputed: float
    exchanged: int = 0

    @cached_property
    def parameters(self) -> int:
        """Weights that train."""
        return sum(self.trained)

    @cached_property
    def largest(self) -> int:
        """Weights of the largest tensor."""
        return max(self.trained)

    @cached_property
    def in_small_tensors(self) -> int:
        """Weights that ZeRO 3 keeps whole on every rank: norms and biases."""
        return sum(one for one in self.trained if one <= PERSISTENT_ELEMENTS)


@dataclass(frozen=True)
class Beside:
    """A frozen network that answers while a stage trains: an encoder, a teacher.

    Attributes:
        name: what it is.
        parameters: its weights.
        weight_bytes: of each of them.
        flops: FLOPs for one clip.
    """

    name: str
    parameters: int
    weight_bytes: int
    flops: float


@dataclass(frozen=True)
class Training:
    """A stage that trains.

    Attributes:
        networks: in the order in which they step.
        beside: frozen ones on the same GPU.
        clip_bytes: one clip as it is read from storage, decoded; an upper bound.
    """

    networks: tuple[Network, ...]
    beside: tuple[Beside, ...]
    clip_bytes: int

    @property
    def parameters(self) -> int:
        """Weights that train, of all networks."""
        return sum(network.parameters for network in self.networks)

    @property
    def clip_flops(self) -> float:
        """FLOPs of training on one clip without recomputation, frozen networks' answers too."""
        passes = sum(3.0 * network.forward for network in self.networks)
        return passes + sum(one.flops for one in self.beside)


@dataclass(frozen=True)
class Passing:
    """A stage that trains nothing: it runs finished networks.

    Attributes:
        parameters: of all that it runs.
        weight_bytes: of each of them.
        flops: in all; None if nobody knows how many clips there are.
    """

    parameters: int
    weight_bytes: int
    flops: float | None


Facts = Training | Passing
