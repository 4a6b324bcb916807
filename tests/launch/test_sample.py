"""`rushes sample`: how many clips fit at once."""

from orchestrator.launch.sample import batch_of
from orchestrator.recipe.train import Clip


def test_large_clips_are_sampled_one_by_one() -> None:
    small = Clip(frames=9, size=(32, 32))
    long, large = Clip(frames=76, size=(64, 64)), Clip(frames=1, size=(768, 768))
    assert batch_of([small]) == 16
    assert batch_of([Clip(frames=16, size=(512, 512))]) == 3
    assert batch_of([small, Clip(frames=128, size=(768, 1280))]) == 1
    # A network of single frames takes all frames of the clip before.
    assert batch_of([long, large]) == 1
