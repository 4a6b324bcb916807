"""How the clips of one source and shape came in a run, for an audit."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.index import Index
from orchestrator.data.names import shown

_SHOWN = 8  # places or keys that a fault names


@dataclass(frozen=True)
class Times:
    """How one epoch was used.

    Attributes:
        number: from 0.
        used: clips that came.
        left_out: clips in batches that a rewind has left out.
        bad: clips that others stood in for.
        faults: what is wrong with it.
    """

    number: int
    used: int
    left_out: int
    bad: int
    faults: tuple[str, ...]


class Keys:
    """Clips by key, which those of several shards may share."""

    def __init__(self, index: Index, rows: Sequence[int]) -> None:
        self._clips = len(rows)
        wanted = Counter(index.keys(rows))
        self.keys = list(wanted)
        self.place = {key: place for place, key in enumerate(self.keys)}
        self.wanted = np.array(list(wanted.values()))  # times in an epoch

    def __len__(self) -> int:
        return self._clips


class Counts:
    """How often each of some clips came, or would have: one that is bad comes by another."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._own: NDArray[np.int32] = np.zeros(len(keys.keys), dtype=np.int32)
        self._times: NDArray[np.int32] = np.zeros(len(keys.keys), dtype=np.int32)

    def add(self, key: str, *, instead: str | None) -> list[str]:
        """Takes a clip, or one that stood in for another; those that are none of these clips."""
        place = self._keys.place.get(key if instead is None else instead)
        if place is not None:
            self._times[place] += 1
            self._own[place] += instead is None
        return [one for one in (key, instead) if one is not None and one not in self._keys.place]

    @property
    def used(self) -> int:
        """Clips that came."""
        return int(np.minimum(self._own, self._keys.wanted).sum())

    @property
    def bad(self) -> int:
        """Clips that came by others alone."""
        return int(np.minimum(self._times, self._keys.wanted).sum()) - self.used

    def missing(self) -> list[str]:
        """Clips that never came, nor another for them."""
        return [self._keys.keys[place] for place in np.flatnonzero(self._times < self._keys.wanted)]

    def twice(self) -> tuple[str, ...]:
        """A fault if clips came more than once."""
        places = np.flatnonzero(self._times > self._keys.wanted)
        again = [self._keys.keys[place] for place in places]
        return (f"came more than once: {some(again)}",) if again else ()


class Course:
    """Takes batches in any order, and tells of every epoch which clips came how often.

    Args:
        keys: of the clips.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._epochs: dict[int, Counts] = {}
        self._batches: dict[int, tuple[int, int]] = {}  # first place and clips, by ordinal

    @property
    def is_used(self) -> bool:
        """Whether any batch was noted."""
        return bool(self._batches)

    def twice(self) -> Iterator[tuple[int, str]]:
        """Epochs in which clips came more than once, and that fault."""
        for number, counts in sorted(self._epochs.items()):
            for fault in counts.twice():
                yield number, fault

    def clip(self, key: str, *, place: int, instead: str | None) -> list[str]:
        """Counts a clip, or the bad one that it stood in for; those that are none of these."""
        epoch = place // len(self._keys)
        counts = self._epochs.setdefault(epoch, Counts(self._keys))
        return counts.add(key, instead=instead)

    def batch(self, ordinal: int, *, places: Sequence[int]) -> bool:
        """Notes where a batch stands; whether its places follow each other."""
        first, clips = min(places), len(places)
        self._batches[ordinal] = first, clips
        return sorted(places) == list(range(first, first + clips))

    def epochs(self, *, is_from_the_first: bool, may_leave_out: bool) -> Iterator[Times]:
        """Every epoch that was begun, in order.

        Args:
            is_from_the_first: whether all batches since the first one were taken.
            may_leave_out: whether batches may be missing.
        """
        batches = [self._batches[ordinal] for ordinal in sorted(self._batches)]
        begin = 0 if is_from_the_first else batches[0][0]
        end = batches[-1][0] + batches[-1][1]
        ends = [begin, *(first + clips for first, clips in batches)]
        firsts = [*(first for first, _ in batches), end]
        size = len(self._keys)
        left_out = Counter(
            place // size
            for stop, first in (zip(ends, firsts, strict=True) if may_leave_out else ())
            for place in range(stop, first)
        )
        for number in range(begin // size, (end - 1) // size + 1):
            counts = self._epochs.get(number) or Counts(self._keys)
            faults = counts.twice()
            came, wanted = counts.used + counts.bad, size - left_out[number]
            is_all_there = begin <= number * size and (number + 1) * size <= end
            if is_all_there and came != wanted:
                missing = counts.missing()
                faults = (
                    *faults,
                    f"{len(missing)} of {size} clips never came, wanted {left_out[number]}: "
                    f"{some(missing)}",
                )
            yield Times(
                number=number,
                used=counts.used,
                left_out=left_out[number],
                bad=counts.bad,
                faults=faults,
            )


def some(values: Sequence[object]) -> str:
    """The first few, and how many more there are."""
    told = ", ".join(shown(str(value)) for value in values[:_SHOWN])
    more = len(values) - _SHOWN
    return f"{told} and {more} more" if more > 0 else told
