"""What an audit proves: that every epoch of every bucket gave each of its clips once."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.index import Bucket, Index
from orchestrator.data.names import shown
from orchestrator.data.usage import Use

_SHOWN = 8  # steps, slots or keys that a fault names
_DUE = 2  # batches that a shape may be behind


@dataclass(frozen=True)
class Epoch:
    """How one epoch of one bucket was used.

    Attributes:
        bucket: frames, height, width.
        number: from 0.
        clips: in the bucket.
        used: of them.
        left_out: of them, in batches that a rewind has left out.
    """

    bucket: Bucket
    number: int
    clips: int
    used: int
    left_out: int

    @property
    def is_whole(self) -> bool:
        """Whether every clip was used, but for those that were left out on purpose."""
        return self.used + self.left_out == self.clips


@dataclass
class Report:
    """What was found.

    Attributes:
        steps: that were looked at.
        clips: that they were trained on.
        packed: of those, slots that gave way to independent images.
        images: in these slots.
        epochs: in order, by bucket.
        faults: what is not as it should be, a line each.
    """

    steps: int = 0
    clips: int = 0
    packed: int = 0
    images: int = 0
    epochs: list[Epoch] = field(default_factory=list[Epoch])
    faults: list[str] = field(default_factory=list[str])


class Examiner:
    """Takes the rows of a stage, step by step and in any order of steps, and says what is wrong.

    It knows nothing of how the order is made: it counts which clips came, and where a batch says
    that it stands.

    Args:
        index: the clips.
        batch: clips per step over all ranks.
        left_out: places in the order of data that no step reads.
        images: of packed slots, where they have a source of their own.
    """

    def __init__(
        self,
        index: Index,
        *,
        batch: int,
        left_out: Collection[int],
        images: Index | None = None,
    ) -> None:
        self._batch = batch
        self._left_out = set(left_out)
        self._clips = {bucket: _Keys(index, rows) for bucket, rows in index.buckets.items()}
        self._images = None if images is None else _Keys(images, range(len(images)))
        self._positions: dict[int, int] = {}  # by step
        self._ordinals: dict[Bucket, set[int]] = {}
        self._epochs: dict[tuple[Bucket, int], _Counts] = {}
        self._image_epochs: dict[tuple[Bucket | None, int], _Counts] = {}
        self._missing = 0  # batches between others that never came
        self._report = Report()

    def step(self, uses: Sequence[Use]) -> None:
        """Takes what all ranks have put down of one step."""
        first = uses[0]
        step, report = first.step, self._report
        if step in self._positions:
            report.faults.append(f"step {step}: comes twice")
            return
        self._positions[step] = first.position
        report.steps += 1
        if any(
            (use.position, use.bucket, use.ordinal) != (first.position, first.bucket, first.ordinal)
            for use in uses
        ):
            report.faults.append(f"step {step}: ranks were at different places of the order")
            return
        slots = sorted(slot for use in uses for slot in use.slots)
        if slots != list(range(self._batch)):
            report.faults.append(f"step {step}: {_told(slots, self._batch, name='slots')}")
        if first.bucket not in self._clips:
            report.faults.append(f"step {step}: no clips of {_shape(first.bucket)} in the index")
            return
        self._ordinals.setdefault(first.bucket, set()).add(first.ordinal)
        for use in uses:
            for slot, key in zip(use.slots, use.keys, strict=True):
                self._clip(use, slot=slot, key=key)
            for slot, keys in use.packed.items():
                self._packed(use, slot=slot, keys=keys)

    def report(self, *, start: int, stop: int) -> Report:
        """What is known once all rows were taken.

        Args:
            start, stop: steps done before the first row, and with the last one.
        """
        report = self._report
        for bucket in sorted(self._ordinals):
            self._check_bucket(bucket, is_from_the_first=start == 0)
        self._check_steps(start, stop)
        for (bucket, number), counts in sorted(
            self._image_epochs.items(), key=lambda item: (item[0][0] or (0, 0, 0), item[0][1])
        ):
            name = "images" if bucket is None else f"images of {_shape(bucket)}"
            report.faults += counts.twice(f"{name}, epoch {number + 1}")
        return report

    def _clip(self, use: Use, *, slot: int, key: str) -> None:
        keys = self._clips[use.bucket]
        epoch, _ = divmod(use.ordinal * self._batch + slot, len(keys))
        self._report.clips += 1
        counts = self._epochs.setdefault((use.bucket, epoch), _Counts(keys))
        if not counts.add(key):
            self._report.faults.append(
                f"step {use.step}: {shown(key)} is no clip of {_shape(use.bucket)} in the index"
            )

    def _packed(self, use: Use, *, slot: int, keys: Sequence[str]) -> None:
        self._report.packed += 1
        self._report.images += len(keys)
        own = self._images is not None
        known = self._images if self._images is not None else self._clips[use.bucket]
        ordinal = use.position if own else use.ordinal
        first = (ordinal * self._batch + slot) * len(keys)
        for place, key in enumerate(keys, start=first):
            bucket = None if own else use.bucket
            epoch = place // len(known)
            counts = self._image_epochs.setdefault((bucket, epoch), _Counts(known))
            if not counts.add(key):
                self._report.faults.append(
                    f"step {use.step}: {shown(key)} is no image of the index"
                )

    def _check_steps(self, start: int, stop: int) -> None:
        faults = self._report.faults
        wanted = set(range(start + 1, stop + 1))
        missing = sorted(wanted - self._positions.keys())
        if missing:
            faults.append(f"steps without a row: {_some(missing)}")
        if more := sorted(self._positions.keys() - wanted):
            faults.append(f"rows of steps that are not in the run: {_some(more)}")
        places = [self._positions[step] for step in sorted(self._positions)]
        if any(after <= before for before, after in pairwise(places)):
            faults.append("steps do not go forward in the order of data")
        if back := sorted(self._left_out & set(places)):
            faults.append(f"places of the order were trained on that are left out: {_some(back)}")
        if places and not missing:
            seen = range(places[0] if start else 0, places[-1] + 1)
            skipped = set(seen) - set(places) - self._left_out
            if skipped:
                faults.append(f"places of the order were skipped: {_some(sorted(skipped))}")
            self._check_draws(len(seen), left_out=len(self._left_out.intersection(seen)))

    def _check_draws(self, places: int, *, left_out: int) -> None:
        """Batches that never came are those left out, and every shape gets its share of them."""
        faults = self._report.faults
        if self._missing > left_out:
            faults.append(
                f"{self._missing} batches of the order never came, wanted {left_out} left out"
            )
        clips = sum(len(keys) for keys in self._clips.values())
        for bucket, keys in self._clips.items():
            due = places * len(keys) / clips  # the order keeps within one batch of it
            if bucket not in self._ordinals and due - left_out >= _DUE:
                faults.append(f"clips of {_shape(bucket)}: never came, {due:.0f} batches were due")

    def _check_bucket(self, bucket: Bucket, *, is_from_the_first: bool) -> None:
        keys, ordinals = self._clips[bucket], self._ordinals[bucket]
        first = 0 if is_from_the_first else min(ordinals)
        begin, end = first * self._batch, (max(ordinals) + 1) * self._batch
        missing = set(range(first, max(ordinals))) - ordinals
        self._missing += len(missing)
        left_out = Counter(
            place // len(keys)
            for ordinal in (missing if self._left_out else ())
            for place in range(ordinal * self._batch, (ordinal + 1) * self._batch)
        )
        for number in range(begin // len(keys), (end - 1) // len(keys) + 1):
            counts = self._epochs.get((bucket, number)) or _Counts(keys)
            epoch = Epoch(
                bucket=bucket,
                number=number,
                clips=len(keys),
                used=counts.used,
                left_out=left_out[number],
            )
            self._report.epochs.append(epoch)
            name = f"clips of {_shape(bucket)}, epoch {number + 1}"
            self._report.faults += counts.twice(name)
            is_all_there = begin <= number * len(keys) and (number + 1) * len(keys) <= end
            if is_all_there and not epoch.is_whole:
                self._report.faults.append(
                    f"{name}: {len(counts.missing())} of {len(keys)} clips never came, wanted "
                    f"{epoch.left_out}: {_some(counts.missing())}"
                )


class _Keys:
    """The clips of a bucket by key, which those of several shards may share."""

    def __init__(self, index: Index, rows: Sequence[int]) -> None:
        self._clips = len(rows)
        wanted = Counter(index.keys(rows))
        self.keys = list(wanted)
        self.place = {key: place for place, key in enumerate(self.keys)}
        self.wanted = np.array(list(wanted.values()))  # times in an epoch

    def __len__(self) -> int:
        return self._clips


class _Counts:
    """How often each clip of a bucket came."""

    def __init__(self, keys: _Keys) -> None:
        self._keys = keys
        self._times: NDArray[np.int32] = np.zeros(len(keys.keys), dtype=np.int32)

    def add(self, key: str) -> bool:
        """Whether there is such a clip."""
        place = self._keys.place.get(key)
        if place is not None:
            self._times[place] += 1
        return place is not None

    @property
    def used(self) -> int:
        """Clips that came."""
        return int(np.minimum(self._times, self._keys.wanted).sum())

    def missing(self) -> list[str]:
        """Clips that never came."""
        return [self._keys.keys[place] for place in np.flatnonzero(self._times < self._keys.wanted)]

    def twice(self, name: str) -> list[str]:
        """A fault if clips came more than once."""
        places = np.flatnonzero(self._times > self._keys.wanted)
        again = [self._keys.keys[place] for place in places]
        return [f"{name}: came more than once: {_some(again)}"] if again else []


def _told(slots: Sequence[int], batch: int, *, name: str) -> str:
    missing = sorted(set(range(batch)) - set(slots))
    if missing:
        return f"{name} without a clip: {_some(missing)} of {batch}"
    return f"{name} {_some(slots)}, wanted each of {batch} once"


def _shape(bucket: Bucket) -> str:
    return "x".join(str(side) for side in bucket)


def _some(values: Sequence[object]) -> str:
    told = ", ".join(shown(str(value)) for value in values[:_SHOWN])
    more = len(values) - _SHOWN
    return f"{told} and {more} more" if more > 0 else told
