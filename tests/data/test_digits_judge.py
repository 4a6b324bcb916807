"""The judge against real clips whose labels are known, and the prompts' balance."""

from collections import Counter

import numpy as np
import pytest

from orchestrator.data.digits.judge import Judge, Verdict
from orchestrator.data.digits.prompts import held_out_prompts
from orchestrator.data.digits.source import captions, digit_clip

EVAL_CLIPS = 200


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.fit()


def test_judge_names_real_eval_clips(judge: Judge) -> None:
    clips = [
        digit_clip(seed=3, split="eval", index=i, frames=9, height=32, width=32)
        for i in range(EVAL_CLIPS)
    ]
    verdicts = [judge.judge(clip.frames) for clip in clips]
    pairs = [(verdict, clip.labels) for verdict, clip in zip(verdicts, clips, strict=True)]
    assert np.mean([seen.digit == real.digit for seen, real in pairs]) >= 0.95
    assert all(seen.colour == real.colour for seen, real in pairs)
    assert all(seen.direction == real.direction for seen, real in pairs)


def test_backward_clip_goes_the_other_way(judge: Judge) -> None:
    clip = digit_clip(seed=3, split="eval", index=0, frames=9, height=32, width=32)
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
    assert clip.labels.direction is not None
    assert judge.judge(clip.frames[::-1]).direction == opposite[clip.labels.direction]


def test_empty_clip_shows_nothing(judge: Judge) -> None:
    black = np.zeros((9, 32, 32, 3), dtype=np.uint8)
    assert judge.judge(black) == Verdict(digit=None, colour=None, direction=None)


def test_one_frame_has_no_direction(judge: Judge) -> None:
    clip = digit_clip(seed=3, split="eval", index=1, frames=1, height=32, width=32)
    verdict = judge.judge(clip.frames)
    assert verdict.colour == clip.labels.colour
    assert verdict.direction is None


def test_prompts_are_balanced_and_depend_on_the_seed_alone() -> None:
    prompts = held_out_prompts(100, seed=0)
    assert set(Counter(one.digit for one in prompts).values()) == {10}
    assert set(Counter(one.colour for one in prompts).values()) == {25}
    assert set(Counter(one.direction for one in prompts).values()) == {25}
    assert prompts == held_out_prompts(100, seed=0)
    assert prompts != held_out_prompts(100, seed=1)


def test_prompts_have_the_plain_form_of_captions() -> None:
    clip = digit_clip(seed=0, split="train", index=0, frames=9, height=32, width=32)
    labels = clip.labels
    plain = f"a {labels.colour} {labels.digit} moving {labels.direction}"
    assert captions(labels)[0] == plain
    same = [
        one.text
        for one in held_out_prompts(1600, seed=0)
        if (one.colour, one.digit, one.direction) == (labels.colour, labels.digit, labels.direction)
    ]
    assert same
    assert set(same) == {plain}
