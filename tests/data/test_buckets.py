"""Buckets by name, and which one a clip goes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.buckets import RatedBucket, assign_bucket, parse_bucket

NAMED = ("17x256x256@8", "17x144x256@8", "17x256x144@8", "65x144x256@24", "1x256x256@1")
BUCKETS = tuple(parse_bucket(name) for name in NAMED)


@given(
    shape=st.tuples(*[st.integers(1, 10**6 - 1)] * 3),
    fps=st.sampled_from([0.5, 8.0, 23.976, 24000 / 1001, 60.0]),
)
def test_bucket_is_read_as_it_is_written(shape: tuple[int, int, int], fps: float) -> None:
    assert str(parse_bucket(str(RatedBucket(shape, round(fps, 6))))) == str(
        RatedBucket(shape, round(fps, 6))
    )


@pytest.mark.parametrize("text", ["", "17x256x256", "17x256@8", "0x256x256@8", "17x256x256@0", "a"])
def test_what_is_no_bucket_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="wanted FRAMESxHEIGHTxWIDTH@FPS as in 17x256x256@8"):
        parse_bucket(text)


@pytest.mark.parametrize(
    ("stored", "fps", "wanted"),
    [
        ((100, 720, 1280), 24, "65x144x256@24"),  # of two that are as near the one with more
        ((60, 720, 1280), 24, "17x144x256@8"),  # too short for that
        ((300, 720, 1280), 12, "17x144x256@8"),  # too few frames per second for that
        ((60, 1280, 720), 24, "17x256x144@8"),
        ((60, 480, 480), 24, "17x256x256@8"),
        ((60, 300, 480), 24, "17x144x256@8"),
        ((60, 150, 256), 24, "17x144x256@8"),
        ((1, 300, 900), 1, "1x256x256@1"),  # however wide: an image is in no video's bucket
    ],
)
def test_clip_goes_to_the_nearest_that_it_fits(
    stored: tuple[int, int, int], fps: float, wanted: str
) -> None:
    assert str(assign_bucket(BUCKETS, stored=stored, fps=fps)) == wanted


@pytest.mark.parametrize(
    ("stored", "fps", "told"),
    [
        (
            (10, 720, 1280),
            8,
            r"bucket 65x144x256@24: 8 frames per second, wanted at least 24 "
            r"\(nor any other of 4 buckets\)",
        ),
        (
            (17, 480, 480),
            24,
            r"bucket 17x256x256@8: 17 frames at 24 fps, wanted at least 49 to take 17 at 8 fps "
            r"from \(nor any other of 4 buckets\)",
        ),
        ((1, 128, 128), 1, "bucket 1x256x256@1: 128x128 pixels, wanted at least 256x256"),
    ],
)
def test_clip_that_fits_none_is_told_why_not_the_nearest(
    stored: tuple[int, int, int], fps: float, told: str
) -> None:
    with pytest.raises(ValueError, match=f"^{told}$"):
        assign_bucket(BUCKETS, stored=stored, fps=fps)


def test_images_and_videos_want_buckets_of_their_own() -> None:
    *videos, image = BUCKETS
    with pytest.raises(ValueError, match=r"^1 frame, wanted a bucket of 1 frame for it$"):
        assign_bucket(videos, stored=(1, 900, 900), fps=1)
    with pytest.raises(ValueError, match=r"^60 frames, wanted a bucket of more than 1 frame"):
        assign_bucket([image], stored=(60, 900, 900), fps=24)
