"""Randomness of a step, drawn per global sample slot.

Every draw is seeded by (seed, stage, step, slot) and never by the rank, so that a clip sees the
same noise at any world size.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from a tuple; equal tuples give equal seeds on every machine.

    torch's generator on the CPU uses the lower 32 bits: among 100,000 slots one pair or so draws
    the same.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class SlotRandom:
    """The generators of some sample slots of one step."""

    def __init__(self, slots: Sequence[int], *, seed: int, stage: str, step: int) -> None:
        self._generators = [
            torch.Generator().manual_seed(seed_of(seed, stage, step, slot)) for slot in slots
        ]

    def uniform(self, *shape: int) -> Tensor:
        """Draws per slot, [B, *shape], float32 in [0, 1); without a shape one, [B]."""
        return torch.stack([torch.rand(shape, generator=one) for one in self._generators])

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal noise of ``shape`` per slot, [B, *shape], float32."""
        return torch.stack([torch.randn(*shape, generator=one) for one in self._generators])

    def choice(self, counts: Sequence[int]) -> list[int]:
        """One index per slot, below that slot's count."""
        return [
            int(torch.randint(count, (), generator=one))
            for count, one in zip(counts, self._generators, strict=True)
        ]


def happens_at(step: int, *, share: float) -> bool:
    """Whether an event that takes ``share`` of all steps falls on this one, evenly spaced."""
    return int((step + 1) * share) > int(step * share)
