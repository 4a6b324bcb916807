"""What an audit proves: that every epoch of every bucket gave each of its clips once."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from orchestrator.data.course import Course, Keys, some
from orchestrator.data.index import Bucket
from orchestrator.data.names import shown
from orchestrator.data.pool import Part
from orchestrator.data.usage import Use

_DUE = 2  # batches that a shape may be behind, and clips that a source may be
_Named = tuple[str, Bucket]  # part and shape


@dataclass(frozen=True)
class Epoch:
    """How one epoch of one source's clips of one shape was used.

    Attributes:
        part: name of the source in a mix, else empty.
        bucket: frames, height, width.
        number: from 0.
        clips: in the bucket.
        used: of them.
        left_out: of them, in batches that a rewind has left out.
        bad: of them, could not be read; others stood in.
    """

    part: str
    bucket: Bucket
    number: int
    clips: int
    used: int
    left_out: int
    bad: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether every clip was used, but for those left out on purpose and those that are bad."""
        return self.used + self.left_out + self.bad == self.clips


@dataclass
class Report:
    """What was found.

    Attributes:
        steps: that were looked at.
        clips: that they were trained on, by part.
        packed: of those, slots that gave way to independent images.
        images: in these slots.
        epochs: in order, by bucket.
        faults: what is not as it should be, a line each.
    """

    steps: int = 0
    clips: Counter[str] = field(default_factory=Counter[str])
    packed: int = 0
    images: int = 0
    epochs: list[Epoch] = field(default_factory=list[Epoch])
    faults: list[str] = field(default_factory=list[str])


class Examiner:
    """Takes the rows of a stage, step by step and in any order of steps, and says what is wrong.

    It knows nothing of how the order is made: it counts which clips came, and where a batch says
    that it stands.

    Args:
        parts: the clips: a source, or those that are mixed.
        batch: clips per step over all ranks.
        multiples: shapes of which a step takes so many times ``batch``; default: once.
        left_out: places in the order of data that no step reads.
        images: of packed slots, where they have sources of their own.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        batch: int,
        multiples: Mapping[Bucket, int],
        left_out: Collection[int],
        images: Sequence[Part] = (),
    ) -> None:
        self._batch = batch
        self._multiples = multiples
        self._left_out = set(left_out)
        self._keys: dict[_Named, Keys] = {
            (part.name, bucket): Keys(part.index, rows)
            for part in parts
            for bucket, rows in part.index.buckets.items()
        }
        weights = _weights(parts, self._keys)
        shapes = _by_shape(weights)
        self._due = _due(shapes, multiples)
        self._shares = {named: weight / shapes[named[1]] for named, weight in weights.items()}
        self._courses = {named: Course(keys) for named, keys in self._keys.items()}
        self._images = {
            part.name: Course(Keys(part.index, range(len(part.index)))) for part in images
        }
        self._packed = {named: Course(keys) for named, keys in self._keys.items()}
        self._positions: dict[int, int] = {}  # by step
        self._ordinals: dict[Bucket, set[int]] = {}
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
        size = self._size(first.bucket)
        slots = sorted(slot for use in uses for slot in use.slots)
        if slots != list(range(size)):
            report.faults.append(f"step {step}: {_told(slots, size, name='slots')}")
        if first.bucket not in self._due:
            report.faults.append(f"step {step}: no clips of {_shape(first.bucket)} in the index")
            return
        self._ordinals.setdefault(first.bucket, set()).add(first.ordinal)
        places: dict[str, list[int]] = {}
        for use in uses:
            self._clips(use, size=size, places=places)
            for slot in use.packed:
                self._packed_slot(use, slot=slot, size=size)
        for part, some_places in places.items():
            course = self._courses[part, first.bucket]
            if not course.batch(first.ordinal, places=some_places):
                report.faults.append(f"step {step}: its clips do not follow each other")

    def report(self, *, start: int, stop: int) -> Report:
        """What is known once all rows were taken.

        Args:
            start, stop: steps done before the first row, and with the last one.
        """
        report = self._report
        missing = sum(
            len(set(range(0 if start == 0 else min(seen), max(seen))) - seen)
            for seen in self._ordinals.values()
        )
        for part, bucket in sorted(self._courses, key=lambda named: (named[1], named[0])):
            if self._courses[part, bucket].is_used:
                self._check_course(part, bucket, is_from_the_first=start == 0)
        self._check_steps(start, stop, missing=missing)
        for name, course in self._image_courses():
            for number, fault in course.twice():
                report.faults.append(f"{name}, epoch {number + 1}: {fault}")
        return report

    def _size(self, bucket: Bucket) -> int:
        return self._batch * self._multiples.get(bucket, 1)

    def _clips(self, use: Use, *, size: int, places: dict[str, list[int]]) -> None:
        own = use.places or [use.ordinal * size + slot for slot in use.slots]
        parts = use.parts or [""] * len(use.slots)
        for slot, part, place, key in zip(use.slots, parts, own, use.keys, strict=True):
            self._report.clips[part] += 1
            course = self._courses.get((part, use.bucket))
            unknown = [key]
            if course is not None:
                unknown = course.clip(key, place=place, instead=use.instead.get(slot))
            self._report.faults += [
                f"step {use.step}: {shown(one)} is no clip of {_of(part, use.bucket)} in the index"
                for one in unknown
            ]
            if course is not None:
                places.setdefault(part, []).append(place)

    def _packed_slot(self, use: Use, *, slot: int, size: int) -> None:
        keys = use.packed[slot]
        self._report.packed += 1
        self._report.images += len(keys)
        ordinal = use.position if self._images else use.ordinal
        first = (ordinal * size + slot) * len(keys)
        places = use.packed_places.get(slot, range(first, first + len(keys)))
        parts = use.packed_parts.get(slot, [""] * len(keys))
        instead = use.images_instead.get(slot, {})
        for number, (part, place, key) in enumerate(zip(parts, places, keys, strict=True)):
            own = self._packed.get((part, use.bucket))
            course = self._images.get(part) if self._images else own
            unknown = [key]
            if course is not None:
                unknown = course.clip(key, place=place, instead=instead.get(number))
            self._report.faults += [
                f"step {use.step}: {shown(one)} is no image of the index" for one in unknown
            ]

    def _image_courses(self) -> Iterable[tuple[str, Course]]:
        for part, course in sorted(self._images.items()):
            yield f"images{f' of {part}' if part else ''}", course
        for (part, bucket), course in sorted(self._packed.items()):
            yield f"images of {_of(part, bucket)}", course

    def _check_steps(self, start: int, stop: int, *, missing: int) -> None:
        faults = self._report.faults
        wanted = set(range(start + 1, stop + 1))
        untold = sorted(wanted - self._positions.keys())
        if untold:
            faults.append(f"steps without a row: {some(untold)}")
        if more := sorted(self._positions.keys() - wanted):
            faults.append(f"rows of steps that are not in the run: {some(more)}")
        places = [self._positions[step] for step in sorted(self._positions)]
        if any(after <= before for before, after in pairwise(places)):
            faults.append("steps do not go forward in the order of data")
        if back := sorted(self._left_out & set(places)):
            faults.append(f"places of the order were trained on that are left out: {some(back)}")
        if places and not untold:
            seen = range(places[0] if start else 0, places[-1] + 1)
            skipped = set(seen) - set(places) - self._left_out
            if skipped:
                faults.append(f"places of the order were skipped: {some(sorted(skipped))}")
            left_out = len(self._left_out.intersection(seen))
            self._check_draws(len(seen), left_out=left_out, missing=missing)

    def _check_draws(self, places: int, *, left_out: int, missing: int) -> None:
        """Batches that never came are those left out, and every shape gets its share of them."""
        faults = self._report.faults
        if missing > left_out:
            faults.append(f"{missing} batches of the order never came, wanted {left_out} left out")
        for bucket, share in self._due.items():
            due = places * share  # the order keeps within one batch of it
            if bucket not in self._ordinals and due - left_out >= _DUE:
                faults.append(f"clips of {_shape(bucket)}: never came, {due:.0f} batches were due")
        for (part, bucket), share in self._shares.items():
            if not self._courses[part, bucket].is_used:
                # Of the batches that came: the order keeps within a clip of it in any batches.
                due = len(self._ordinals.get(bucket, ())) * self._size(bucket) * share
                if due >= _DUE * (1 + left_out):
                    faults.append(f"clips of {_of(part, bucket)}: never came, {due:.0f} were due")

    def _check_course(self, part: str, bucket: Bucket, *, is_from_the_first: bool) -> None:
        course = self._courses[part, bucket]
        for times in course.epochs(
            is_from_the_first=is_from_the_first, may_leave_out=bool(self._left_out)
        ):
            self._report.epochs.append(
                Epoch(
                    part=part,
                    bucket=bucket,
                    number=times.number,
                    clips=len(self._keys[part, bucket]),
                    used=times.used,
                    left_out=times.left_out,
                    bad=times.bad,
                )
            )
            name = f"clips of {_of(part, bucket)}, epoch {times.number + 1}"
            self._report.faults += [f"{name}: {fault}" for fault in times.faults]


def _weights(parts: Sequence[Part], keys: Mapping[_Named, Keys]) -> dict[_Named, float]:
    """Of all clips that are drawn, those of each source and shape."""
    each = {part.name: part.weight / len(part.index) for part in parts}
    return {(part, bucket): each[part] * len(own) for (part, bucket), own in keys.items()}


def _by_shape(weights: Mapping[_Named, float]) -> dict[Bucket, float]:
    totals: dict[Bucket, float] = {}
    for (_, bucket), weight in weights.items():
        totals[bucket] = totals.get(bucket, 0.0) + weight
    return totals


def _due(shapes: Mapping[Bucket, float], multiples: Mapping[Bucket, int]) -> dict[Bucket, float]:
    """Which share of the steps is each shape's."""
    turns = {bucket: weight / multiples.get(bucket, 1) for bucket, weight in shapes.items()}
    return {bucket: turn / sum(turns.values()) for bucket, turn in turns.items()}


def _told(slots: Sequence[int], batch: int, *, name: str) -> str:
    missing = sorted(set(range(batch)) - set(slots))
    if missing:
        return f"{name} without a clip: {some(missing)} of {batch}"
    return f"{name} {some(slots)}, wanted each of {batch} once"


def _of(part: str, bucket: Bucket) -> str:
    return f"{part} {_shape(bucket)}" if part else _shape(bucket)


def _shape(bucket: Bucket) -> str:
    return "x".join(str(side) for side in bucket)
