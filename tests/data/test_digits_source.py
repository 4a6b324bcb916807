"""Clips of the digits source: deterministic, inside the frame, true to their captions."""

from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from orchestrator.data.digits.source import (
    DIRECTIONS,
    FIRST_EVAL_IMAGE,
    SPEEDS,
    WORDS,
    DigitClip,
    Split,
    digit_clip,
    digit_side,
    real_digits,
)


def clip(index: int, *, split: str = "train", frames: int = 9, side: int = 32) -> DigitClip:
    assert split in ("train", "eval")
    return digit_clip(seed=0, split=split, index=index, frames=frames, height=side, width=side)


def centre(frame_HWC: np.ndarray) -> np.ndarray:
    """Brightness centroid (row, column)."""
    shade_HW = frame_HWC.max(axis=-1).astype(float)
    places = np.stack(np.meshgrid(*map(np.arange, shade_HW.shape), indexing="ij"))
    return (places * shade_HW).sum(axis=(1, 2)) / shade_HW.sum()


def test_clips_are_the_same_bytes_as_ever() -> None:
    digest = sha256()
    for split in ("train", "eval"):
        for index in (0, 1, 1000):
            digest.update(clip(index, split=split).frames.tobytes())
    assert digest.hexdigest() == "f320f4707f07608efa6ae2561ede771481bc86b427bbbcc659b0a0687b8ee668"


def test_clips_do_not_depend_on_what_was_drawn_before() -> None:
    alone = clip(5).frames
    for index in range(5):
        clip(index)
    assert np.array_equal(clip(5).frames, alone)


def test_seed_split_and_index_each_change_the_clip() -> None:
    base = clip(7).frames
    other_seed = digit_clip(seed=1, split="train", index=7, frames=9, height=32, width=32).frames
    for other in (other_seed, clip(7, split="eval").frames, clip(8).frames):
        assert not np.array_equal(base, other)


def test_digits_are_those_that_scikit_learn_loads() -> None:
    loaded: Any = load_digits()
    splits: tuple[Split, ...] = ("train", "eval")
    scans, digits = zip(*(real_digits(split) for split in splits), strict=True)
    np.testing.assert_array_equal(np.concatenate(scans), loaded["images"] / 16.0)
    np.testing.assert_array_equal(np.concatenate(digits), loaded["target"])


def test_train_and_eval_share_no_scan() -> None:
    train, _ = real_digits("train")
    held_out, _ = real_digits("eval")
    assert len(train) == FIRST_EVAL_IMAGE
    assert len(held_out) == 297
    assert not {scan.tobytes() for scan in train} & {scan.tobytes() for scan in held_out}


def test_every_digit_colour_direction_and_speed_appears() -> None:
    labels = [clip(index).labels for index in range(300)]
    assert {one.digit for one in labels} == set(WORDS)
    assert {one.direction for one in labels} == set(DIRECTIONS)
    assert len({one.colour for one in labels}) == 4
    assert len({one.speed for one in labels}) == 3


def test_digit_moves_the_way_it_says_and_no_other() -> None:
    for index in range(40):
        one = clip(index)
        assert one.labels.direction is not None
        way = np.array(DIRECTIONS[one.labels.direction])
        moved = centre(one.frames[-1]) - centre(one.frames[0])
        assert moved @ way > 3.0
        # Bytes are rounded, so a still axis wavers by less than a tenth of a pixel.
        assert np.all(np.abs(moved[way == 0]) < 0.1)


def test_digit_never_leaves_the_frame() -> None:
    for index in range(40):
        light_T = clip(index).frames.max(axis=-1).sum(axis=(1, 2), dtype=float)
        # Between pixels the same light is spread out; only rounding to bytes differs.
        np.testing.assert_allclose(light_T, light_T[0], rtol=0.01)


def test_captions_name_only_what_is_shown() -> None:
    for index in range(40):
        one = clip(index)
        labels = one.labels
        assert labels.direction is not None
        assert one.captions[0] == f"a {labels.colour} {labels.digit} moving {labels.direction}"
        assert len(set(one.captions)) >= 3
        for caption in one.captions:
            words = set(caption.replace(",", "").replace("wards", "").split())
            assert {labels.digit, labels.colour, labels.direction} <= words
            assert not words & (set(WORDS) - {labels.digit})
            assert not words & (set(DIRECTIONS) - {labels.direction})


def test_image_has_no_motion_in_its_captions() -> None:
    one = clip(0, frames=1)
    assert one.frames.shape == (1, 32, 32, 3)
    assert one.labels.direction is None
    assert one.labels.speed is None
    text = " ".join(one.captions)
    assert "mov" not in text
    assert not set(text.split()) & set(DIRECTIONS)


def test_frame_smaller_than_a_scan_is_refused() -> None:
    with pytest.raises(ValueError, match=r"size=\[11, 11\], wanted at least 12x12"):
        clip(0, side=11)


def test_digit_fills_the_same_share_of_a_smaller_frame() -> None:
    assert clip(3, side=12).frames.any()
    light = [clip(3, side=side).frames.mean() for side in (16, 32, 64)]
    np.testing.assert_allclose(light, light[1], rtol=0.05)


@pytest.mark.parametrize(("frames", "side"), [(9, 32), (17, 32), (9, 24), (33, 24), (9, 16)])
def test_speed_is_as_the_caption_says(frames: int, side: int) -> None:
    for index in range(20):
        one = clip(index, frames=frames, side=side)
        assert one.labels.direction is not None
        assert one.labels.speed is not None
        way = np.array(DIRECTIONS[one.labels.direction])
        moved = (centre(one.frames[-1]) - centre(one.frames[0])) @ way
        digit = digit_side(side, side)
        wanted = min(SPEEDS[one.labels.speed] * digit * (frames - 1), side - digit)
        assert moved == pytest.approx(wanted, abs=0.1)  # bytes are rounded
        if wanted < SPEEDS[one.labels.speed] * digit * (frames - 1):
            assert one.labels.speed == "slowly"


def test_edges_of_a_larger_digit_are_as_sharp() -> None:
    def steepest(side: int) -> float:
        shades = [clip(index, frames=1, side=side).frames.max(axis=-1)[0] for index in range(10)]
        return float(np.mean([np.abs(np.diff(shade.astype(float))).max() for shade in shades]))

    assert steepest(96) > 0.9 * steepest(32)
