"""Which clips are kept: thresholds, buckets, doubles."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.data.prepare.buckets import Shape, place_of
from orchestrator.data.prepare.choose import Looked, choose
from orchestrator.data.prepare.doubles import Candidate, doubles
from orchestrator.data.prepare.records import Clip, Listed, Probed, Scored, Seen
from orchestrator.data.prepare.score import hash_of
from orchestrator.recipe.prepare import Bucket, Dedup, Prepare, Range

WIDE = Bucket(frames=16, size=(64, 112), fps=8.0)
TALL = Bucket(frames=16, size=(112, 64), fps=8.0)
LONG = Bucket(frames=32, size=(64, 112), fps=8.0)
LARGE = Bucket(frames=16, size=(128, 224), fps=8.0)
QUICK = Bucket(frames=30, size=(64, 112), fps=30.0)
STILL = Bucket(frames=1, size=(64, 64))

CLIP = Shape(height=720, width=1280, duration_s=2.5, fps=24.0, is_image=False)


def bucket_of(shape: Shape, *buckets: Bucket) -> Bucket | str:
    found = place_of(shape, buckets, max_crop=0.5)
    return found if isinstance(found, str) else buckets[found]


def test_the_nearest_aspect_wins() -> None:
    assert bucket_of(CLIP, TALL, WIDE) == WIDE
    assert bucket_of(replace(CLIP, height=1280, width=720), WIDE, TALL) == TALL


def test_of_one_aspect_the_largest_then_the_longest_wins() -> None:
    assert bucket_of(CLIP, WIDE, LARGE) == LARGE
    assert bucket_of(replace(CLIP, duration_s=4.0), WIDE, LONG) == LONG


def test_a_clip_that_is_too_small_short_or_slow_for_one_goes_to_another() -> None:
    assert bucket_of(replace(CLIP, height=100, width=178), LARGE, WIDE) == WIDE
    assert bucket_of(CLIP, LONG, WIDE) == WIDE
    assert bucket_of(CLIP, QUICK, WIDE) == WIDE
    assert bucket_of(replace(CLIP, fps=23.976), replace_fps(WIDE, 24.0)) == replace_fps(WIDE, 24.0)


def replace_fps(bucket: Bucket, fps: float) -> Bucket:
    return bucket.model_copy(update={"fps": fps})


def test_images_and_films_do_not_mix() -> None:
    assert bucket_of(replace(CLIP, is_image=True, fps=0.0, duration_s=0.0), WIDE, STILL) == STILL
    assert bucket_of(CLIP, STILL) == "no bucket is for videos"


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (replace(CLIP, height=36, width=64), "36 x 64 pixels are too few"),
        (replace(CLIP, duration_s=1.0), "1.00 s are too short"),
        (replace(CLIP, fps=6.0), "6 fps are too slow"),
        (replace(CLIP, width=4000), "68% of the picture would be lost"),
    ],
)
def test_what_fits_nowhere_says_why(shape: Shape, said: str) -> None:
    found = bucket_of(shape, WIDE)
    assert isinstance(found, str)
    assert said in found
    assert found.endswith("for 16 frames of 64 x 112")


def candidate(number: int, *hashes: int, video: str = "", pixels: int = 1) -> Candidate:
    return Candidate(
        key=f"c-{number:05d}",
        video=video or f"v{number}",
        scene=0,
        hashes=hashes,
        pixels=pixels,
        duration_s=1.0,
    )


def test_the_largest_of_several_is_kept() -> None:
    clips = [
        candidate(1, 0, 0, 0),
        candidate(2, 0b11, 0, 0, pixels=9),
        candidate(3, 2**64 - 1, 0, 0),
    ]
    assert doubles(clips, distance=4) == {"c-00001": "c-00002"}


def test_clips_of_one_scene_are_no_doubles() -> None:
    clips = [candidate(1, 5, 5, 5, video="v"), candidate(2, 5, 5, 5, video="v")]
    assert doubles(clips, distance=4) == {}
    assert doubles([*clips, candidate(3, 5, 5, 5)], distance=4) == {"c-00003": "c-00001"}


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 6))
def test_doubles_are_those_of_a_comparison_of_all_with_all(seed: int, distance: int) -> None:
    draw = random.Random(seed)
    grounds = [[draw.getrandbits(64) for _ in range(3)] for _ in range(4)]
    clips = []
    for number in range(24):
        hashes = list(draw.choice(grounds))
        for _ in range(draw.randrange(24)):
            hashes[draw.randrange(3)] ^= 1 << draw.randrange(64)
        clips.append(candidate(number, *hashes, pixels=draw.randrange(3)))
    kept: list[Candidate] = []
    wanted: dict[str, str] = {}
    for clip in sorted(clips, key=lambda one: (-one.pixels, one.key)):
        twin = next(
            (
                one
                for one in kept
                if sum((a ^ b).bit_count() for a, b in zip(one.hashes, clip.hashes, strict=True))
                <= 3 * distance
            ),
            None,
        )
        if twin is None:
            kept.append(clip)
        else:
            wanted[clip.key] = twin.key
    draw.shuffle(clips)
    assert doubles(clips, distance=distance) == wanted


def test_a_hash_outlives_scaling_and_light_and_not_another_picture() -> None:
    random_ = np.random.Generator(np.random.Philox(key=3))
    first, second = (
        np.kron(random_.integers(0, 200, (6, 8)), np.ones((16, 16))).astype(np.uint8) for _ in "ab"
    )
    smaller = first[::2, ::2] + np.uint8(20)
    assert (hash_of(first) ^ hash_of(smaller)).bit_count() <= 6
    assert (hash_of(first) ^ hash_of(second)).bit_count() >= 20


def looked(number: int, *, scores: dict[str, float] | None = None, **more: object) -> Looked:
    video = f"v{number}"
    hashes = (f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}",) * 3
    return Looked(
        clip=Clip(f"{video}-00000", video=video, scene=0, start_s=1.0, end_s=3.5),
        listed=Listed(video, root="r", name=f"{video}.mp4", kind="video", size=1, tag=""),
        probed=Probed(video, frames=99, fps=24.0, height=720, width=1280),
        scored=Scored(f"{video}-00000", video=video, hashes=hashes, **more),  # pyright: ignore[reportArgumentType]
        scores=scores or {},
    )


def config(**more: object) -> Prepare:
    return Prepare(buckets=(WIDE,), **more)  # pyright: ignore[reportArgumentType]


def test_a_kept_clip_has_its_bucket_and_frames() -> None:
    (row,) = choose([looked(1)], config=config())
    assert (row.reason, row.bucket, row.frames, row.start_s) == (None, 0, 20, 1.0)


def test_all_of_a_clip_is_stored_or_no_more_than_training_sees_at_a_time() -> None:
    (whole,) = choose([looked(1)], config=config())
    (least,) = choose([looked(1)], config=config(store="bucket"))
    # 2.5 s at 8 frames per second.
    assert (whole.frames, least.frames) == (20, 16)


def test_a_score_out_of_range_is_the_reason() -> None:
    clips = [looked(1, scores={"black": 0.9}), looked(2, scores={"motion": 0.01}), looked(3)]
    rows = choose(clips, config=config(keep={"motion": Range(min=0.02)}))
    assert [(row.reason, row.detail) for row in rows] == [
        ("black", "0.9, wanted at most 0.5"),
        ("motion", "0.01, wanted at least 0.02"),
        (None, ""),
    ]


def test_what_failed_before_keeps_its_reason() -> None:
    crashed = looked(1, reason="crashed", detail="died")
    blind = replace(looked(2), seen=(Seen("v2-00000", video="v2", reason="failed", detail="x: y"),))
    rows = choose([crashed, blind], config=config())
    assert [(row.reason, row.detail) for row in rows] == [("crashed", "died"), ("failed", "x: y")]


def test_a_clip_that_is_rejected_is_not_what_a_double_is_kept_for() -> None:
    large = looked(1, scores={"black": 1.0})
    twin = replace(looked(2), scored=replace(large.scored, key="v2-00000", video="v2"))
    third = replace(looked(3), scored=replace(large.scored, key="v3-00000", video="v3"))
    rows = choose([large, twin, third], config=config())
    assert [(row.reason, row.detail) for row in rows[1:]] == [(None, ""), ("double", "of v2-00000")]
    assert rows[2].bucket is None
    rows = choose([large, twin, third], config=config(dedup=None))
    assert [row.reason for row in rows] == ["black", None, None]


def test_doubles_within_a_distance_only() -> None:
    one, other = looked(1), looked(2)
    near = replace(one.scored, key="v2-00000", video="v2", hashes=(f"{3:016x}",) * 3)
    ground = replace(one.scored, hashes=(f"{0:016x}",) * 3)
    clips = [replace(one, scored=ground), replace(other, scored=near)]
    assert [row.reason for row in choose(clips, config=config(dedup=Dedup(distance=2)))] == [
        None,
        "double",
    ]
    assert [row.reason for row in choose(clips, config=config(dedup=Dedup(distance=1)))] == [
        None,
        None,
    ]
