"""The sums between two logged steps go through a checkpoint as they are."""

import json
import math
from typing import Any

import pytest
import torch

from orchestrator.train.window import Window, restore_window

CPU = torch.device("cpu")


def filled(*losses: float) -> Window:
    window = Window()
    for loss in losses:
        window.add({"loss": torch.tensor(loss)})
    return window


def through_json(*windows: Window) -> list[dict[str, Any]]:
    return json.loads(json.dumps([one.state() for one in windows], allow_nan=False))


def mean(window: Window) -> float:
    return float(window.stats["loss"] / window.weights["loss"])


@pytest.mark.parametrize("losses", [(0.1, 1 / 3, 1e-30), (math.inf,), (math.nan, 1.0)])
def test_a_rank_takes_up_its_own_sums_bitwise(losses: tuple[float, ...]) -> None:
    states = through_json(filled(7.0), filled(*losses))
    window = restore_window(states, rank=1, world_size=2, device=CPU)
    straight = filled(*losses)
    for one in (window, straight):
        one.add({"loss": torch.tensor(0.7)})
    assert torch.equal(
        window.stats["loss"].view(torch.int32), straight.stats["loss"].view(torch.int32)
    )
    assert window.weights == straight.weights


def test_other_ranks_take_up_the_mean_at_its_weight() -> None:
    # Two ranks of one forward pass each; then one rank of two, whose second step has loss 8.
    states = through_json(filled(1.0), filled(3.0))
    window = restore_window(states, rank=0, world_size=1, device=CPU)
    for loss in (8.0, 8.0):
        window.add({"loss": torch.tensor(loss)})
    assert mean(window) == (1.0 + 3.0 + 8.0 + 8.0) / 4


def test_more_ranks_share_the_forward_passes() -> None:
    states = through_json(filled(1.0, 3.0))
    windows = [restore_window(states, rank=rank, world_size=2, device=CPU) for rank in range(2)]
    for window in windows:
        window.add({"loss": torch.tensor(8.0)})
    assert [mean(window) for window in windows] == [5.0, 5.0]


def test_a_checkpoint_that_says_nothing_begins_a_new_window() -> None:
    window = restore_window((), rank=0, world_size=1, device=CPU)
    assert (window.stats, window.weights, window.skipped) == ({}, {}, 0)


def test_weighted_sums_are_shared_with_their_weights() -> None:
    one, other = Window(), Window()
    one.add({"band": torch.tensor(6.0)}, {"band": torch.tensor(3.0)})
    other.add({"band": torch.tensor(0.0)}, {"band": torch.tensor(0.0)})
    window = restore_window(through_json(one, other), rank=0, world_size=1, device=CPU)
    assert (float(window.stats["band"]), float(window.weights["band"])) == (6.0, 3.0)
