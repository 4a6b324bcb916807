"""A denoiser's loss by band of time."""

import torch

from orchestrator.train.tasks.timed import TimedLoss


def test_every_clip_counts_in_its_band_and_in_the_mean() -> None:
    losses, times = [1.0, 2.0, 4.0, 8.0, 5.0], [0.0, 0.24, 0.25, 0.99, 1.0]
    loss = TimedLoss(torch.tensor(losses, requires_grad=True), torch.tensor(times)).mean()
    loss.value.backward()
    sums = {name: value.item() for name, value in loss.stats.items()}
    assert sums == {
        "loss": 4.0,
        "loss/t0.00-0.25": 3.0,
        "loss/t0.25-0.50": 4.0,
        "loss/t0.50-0.75": 0.0,
        "loss/t0.75-1.00": 13.0,
    }
    assert [one.item() for one in loss.weights.values()] == [2.0, 1.0, 0.0, 2.0]
    assert not any(one.requires_grad for one in loss.stats.values())
