"""An audit finds every clip that was left out, repeated or swapped, and nothing else."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.data.audit import Epoch, Examiner, Report
from orchestrator.data.index import Bucket, Index
from orchestrator.data.packing import Packing
from orchestrator.data.pool import Part as Source
from orchestrator.data.pool import alone
from orchestrator.data.stream import Stream
from orchestrator.data.usage import Head, Part, Use, use_of
from tests.data.clips import write_source

SHAPES: dict[Bucket, int] = {(3, 8, 12): 13, (5, 12, 8): 6, (1, 8, 8): 4}
BATCH = 4
STEPS = 31  # some five epochs, the last ones cut short
LEFT_OUT = (3, 4, 11)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return write_source(str(tmp_path_factory.mktemp("clips")), SHAPES)


def consumed(
    index: Index,
    *,
    start: int = 0,
    stop: int = STEPS,
    world_size: int = 1,
    left_out: tuple[int, ...] = (),
    packing: Packing | None = None,
) -> list[list[Use]]:
    """What ranks put down of steps, step by step."""
    streams = [
        Stream(
            alone(index),
            seed=5,
            batch=BATCH,
            rank=rank,
            world_size=world_size,
            packing=packing,
        )
        for rank in range(world_size)
    ]
    for stream in streams:
        stream.leave_out(left_out)
    return [[use_of(one.read_step(step)) for one in streams] for step in range(start, stop)]


def examined(
    index: Index,
    steps: list[list[Use]],
    *,
    start: int = 0,
    left_out: tuple[int, ...] = (),
    images: Index | None = None,
) -> Report:
    examiner = Examiner(
        alone(index),
        batch=BATCH,
        multiples={},
        left_out=left_out,
        images=() if images is None else alone(images),
    )
    for uses in reversed(steps):
        examiner.step(uses)
    return examiner.report(start=start, stop=max(uses[0].step for uses in steps))


@pytest.mark.parametrize("sizes", [(1,), (2,), (4,), (1, 4, 2), (4, 1, 2)])
def test_whole_epochs_are_whole_at_any_world_size(index: Index, sizes: tuple[int, ...]) -> None:
    cuts = [STEPS * number // len(sizes) for number in range(len(sizes) + 1)]
    steps = [
        uses
        for size, start, stop in zip(sizes, cuts, cuts[1:], strict=False)
        for uses in consumed(index, start=start, stop=stop, world_size=size)
    ]
    report = examined(index, steps)
    assert report.faults == []
    assert (report.steps, report.clips.total()) == (STEPS, STEPS * BATCH)
    keys: dict[Bucket, list[str]] = defaultdict(list)  # in the order in which they came
    for uses in steps:
        by_slot = {slot: key for use in uses for slot, key in zip(use.slots, use.keys, strict=True)}
        keys[uses[0].bucket] += [by_slot[slot] for slot in range(BATCH)]
    wanted = [
        Epoch(
            part="",
            bucket=bucket,
            number=first // SHAPES[bucket],
            clips=SHAPES[bucket],
            used=len(set(came[first : first + SHAPES[bucket]])),
            left_out=0,
        )
        for bucket, came in sorted(keys.items())
        for first in range(0, len(came), SHAPES[bucket])
    ]
    assert report.epochs == wanted
    assert sum(epoch.is_whole for epoch in wanted) > len(SHAPES)


def test_clips_of_a_rewind_are_missed_by_nobody(index: Index) -> None:
    steps = consumed(index, left_out=LEFT_OUT)
    report = examined(index, steps, left_out=LEFT_OUT)
    assert report.faults == []
    assert sum(epoch.left_out for epoch in report.epochs) == len(LEFT_OUT) * BATCH
    assert "places of the order were skipped: 3, 4, 11" in examined(index, steps).faults
    kept = examined(index, consumed(index), left_out=LEFT_OUT)
    assert kept.faults == ["places of the order were trained on that are left out: 3, 4, 11"]


def test_an_audit_that_begins_later_says_nothing_of_before(index: Index) -> None:
    report = examined(index, consumed(index, start=9), start=9)
    assert report.faults == []
    assert 0 < sum(epoch.is_whole for epoch in report.epochs) < len(report.epochs)


@pytest.mark.parametrize("has_own", [False, True])
def test_packed_images_come_once_as_well(index: Index, tmp_path: Path, has_own: bool) -> None:
    stills = write_source(str(tmp_path), {(1, 8, 8): 9}) if has_own else None
    packing = Packing(share=0.5, images=3, parts=() if stills is None else alone(stills))
    steps = consumed(index, packing=packing)
    report = examined(index, steps, images=stills)
    assert report.faults == []
    packed = [keys for uses in steps for use in uses for keys in use.packed.values()]
    assert report.packed == len(packed) > 0
    assert report.images == 3 * len(packed)
    (use,) = steps[5]
    ((slot, keys),) = list(use.packed.items())[:1]
    twice = use.packed | {slot: (keys[0], keys[0], keys[2])}
    steps[5] = [use.model_copy(update={"packed": twice})]
    (fault,) = examined(index, steps, images=stills).faults
    assert fault.startswith("images")
    assert fault.endswith(f"came more than once: {keys[0]}")


def swapped(steps: list[list[Use]]) -> list[str]:
    use = steps[7][0]
    other = next(one[0] for one in steps[8:] if one[0].bucket == use.bucket)
    steps[7] = [use.model_copy(update={"keys": (other.keys[0], *use.keys[1:])})]
    return [f"came more than once: {other.keys[0]}", f"never came, wanted 0: {use.keys[0]}"]


def unknown(steps: list[list[Use]]) -> list[str]:
    use = steps[7][0]
    steps[7] = [use.model_copy(update={"keys": ("nobody", *use.keys[1:])})]
    return ["step 8: nobody is no clip of", f"never came, wanted 0: {use.keys[0]}"]


def lost(steps: list[list[Use]]) -> list[str]:
    del steps[7]
    return ["steps without a row: 8", "never came"]


def repeated(steps: list[list[Use]]) -> list[str]:
    steps[8] = [steps[7][0].model_copy(update={"step": 9})]
    return ["do not go forward", "places of the order were skipped: 8", "came more than once"]


def doubled(steps: list[list[Use]]) -> list[str]:
    steps.append(steps[7])
    return ["step 8: comes twice"]


def short(steps: list[list[Use]]) -> list[str]:
    use = steps[7][0]
    steps[7] = [use.model_copy(update={"slots": use.slots[:3], "keys": use.keys[:3]})]
    return ["step 8: slots without a clip: 3 of 4", "never came"]


def apart(steps: list[list[Use]]) -> list[str]:
    use = steps[7][0]
    steps[7] = [use, use.model_copy(update={"position": 8})]
    return ["step 8: ranks were at different places", "never came"]


def late(steps: list[list[Use]]) -> list[str]:
    steps[:] = [
        [use.model_copy(update={"step": use.step - 4}) for use in uses] for uses in steps[4:]
    ]
    return ["places of the order were skipped: 0, 1, 2, 3"]


def jumped(steps: list[list[Use]]) -> list[str]:
    for uses in steps[7:]:
        use = uses[0]
        if use.bucket == steps[7][0].bucket:
            uses[0] = use.model_copy(update={"ordinal": use.ordinal + 1})
    return ["1 batches of the order never came, wanted 0 left out", "never came, wanted 0"]


def one_shape_alone(steps: list[list[Use]]) -> list[str]:
    bucket = steps[0][0].bucket
    kept = [uses for uses in steps if uses[0].bucket == bucket]
    steps[:] = [
        [use.model_copy(update={"step": number + 1, "position": number}) for use in uses]
        for number, uses in enumerate(kept)
    ]
    return ["clips of 5x12x8: never came, 5 batches were due"]


@pytest.mark.parametrize(
    "tamper",
    [swapped, unknown, lost, repeated, doubled, short, apart, late, jumped, one_shape_alone],
)
def test_what_is_wrong_is_found(
    index: Index, tamper: Callable[[list[list[Use]]], list[str]]
) -> None:
    steps = consumed(index)
    wanted = tamper(steps)
    faults = examined(index, steps).faults
    for text in wanted:
        assert any(text in fault for fault in faults), (text, faults)


def test_a_source_of_a_mix_that_never_came_is_found(index: Index, tmp_path: Path) -> None:
    other = write_source(str(tmp_path), {(3, 8, 12): 5})
    some, others = Source(name="some", index=index), Source(name="others", index=other)

    def faults(drawn: tuple[Source, ...], *, steps: int = STEPS) -> list[str]:
        stream = Stream(drawn, seed=5, batch=BATCH, rank=0, world_size=1)
        examiner = Examiner((some, others), batch=BATCH, multiples={}, left_out=())
        for step in range(steps):
            examiner.step([use_of(stream.read_step(step))])
        return examiner.report(start=0, stop=steps).faults

    assert faults((some, others)) == []
    assert faults((some, others), steps=1) == []
    assert any("clips of others 3x8x12: never came, " in fault for fault in faults((some,)))


def test_keys_that_shards_share_are_counted_as_often(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shared(key: str) -> str:
        return "clip-000" if key == "clip-001" else key

    keys = Index.keys
    monkeypatch.setattr(Index, "keys", lambda one, rows: [shared(key) for key in keys(one, rows)])
    steps = [
        [use.model_copy(update={"keys": tuple(map(shared, use.keys))}) for use in uses]
        for uses in consumed(index)
    ]
    assert examined(index, steps).faults == []
    steps[7] = [steps[7][0].model_copy(update={"keys": ("clip-000",) * BATCH})]
    assert any("more than once: clip-000" in one for one in examined(index, steps).faults)


def test_a_part_is_read_as_it_was_written(index: Index) -> None:
    packing = Packing(share=0.5, images=3)
    head = Head(before="step-00000004-x-0001", start=4, stop=9, rank=1, world_size=2)
    uses = tuple(uses[1] for uses in consumed(index, world_size=2, packing=packing)[4:9])
    strange = uses[0].model_copy(update={"keys": ("a\u2028b", "c\x85[/d]")})
    part = Part(head=head, uses=(*uses, strange))
    assert Part.parse(part.to_bytes()) == part
    for damaged in (b"", part.to_bytes()[:-9], b"{}\n"):
        with pytest.raises(ValueError, match=r"Head|Use|utf-8"):
            Part.parse(damaged)
