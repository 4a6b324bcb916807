"""What we rely on in torch.distributed, and in how DeepSpeed 0.19.8 calls it.

After a failure read orchestrator/train/collectives.py: time in collectives is told by wrapping
functions, which whoever keeps them from before, or goes around them, does not call.
"""

import pytest
import torch.distributed.distributed_c10d as c10d

from orchestrator.train.collectives import BLOCKING
from tests.contract import tasks
from tests.numerics.gang import Gang
from tests.numerics.tasks import Setup

NOT_IN_EVERY_TORCH = {"all_gather_single", "reduce_scatter_single"}


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_every_collective_of_an_engine_is_timed(pair: Gang, zero: int) -> None:
    for seen in pair.run(tasks.collectives_of_steps, setup=Setup(zero=zero)):
        assert seen["timed"] == seen["recorded"] > 0
        assert seen["communication_ns"] > 0
        assert seen["returned"]


def test_both_ranks_have_recorded_the_same_last_collective(pair: Gang) -> None:
    first, second = pair.run(tasks.collectives_of_steps, setup=Setup(zero=1))
    assert first["last"] == second["last"]
    # What the test's own training ends with: the loss over ranks.
    assert first["last"]["name"] == "all_reduce"
    assert first["last"]["shapes"] == [[]]
    assert first["last"]["returned"]


def test_what_is_wrapped_is_there() -> None:
    missing = {name for name in BLOCKING if not hasattr(c10d, name)}
    assert missing <= NOT_IN_EVERY_TORCH
