"""The learning rate is a pure function of the step."""

import math

import pytest

from orchestrator.recipe.train import Optim
from orchestrator.train.schedule import learning_rate


def test_constant_rate_without_warm_up() -> None:
    optim = Optim(lr=0.5)
    assert [learning_rate(step, optim=optim, steps=3) for step in range(3)] == [0.5] * 3


def test_warm_up_rises_linearly_to_the_peak() -> None:
    optim = Optim(lr=1.0, warmup_steps=4)
    rates = [learning_rate(step, optim=optim, steps=10) for step in range(5)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_cosine_starts_at_the_peak_and_ends_at_the_floor() -> None:
    optim = Optim(lr=2.0, warmup_steps=2, schedule="cosine", final_lr_ratio=0.1)
    rates = [learning_rate(step, optim=optim, steps=13) for step in range(13)]
    assert rates[2] == 2.0
    assert rates[7] == pytest.approx(1.1)  # half way
    assert rates[12] == pytest.approx(0.2)
    assert rates[3] == pytest.approx(0.2 + 1.8 * (1 + math.cos(math.pi / 10)) / 2)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_warm_up_that_fills_the_training_never_decays() -> None:
    optim = Optim(lr=1.0, warmup_steps=5, schedule="cosine")
    assert learning_rate(4, optim=optim, steps=5) == 1.0
