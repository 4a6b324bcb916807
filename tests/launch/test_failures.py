"""How often a gang that is lost is started again."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.train import FailureConfig, WorkerGroupError
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailureDecision

from orchestrator.cascade.failures import SinceProgress

LOST = WorkerGroupError("lost", {0: ActorDiedError()})


@pytest.mark.parametrize(
    ("began_at", "retried"),
    [
        ([0, 0, 0], 2),
        ([None, None, None], 2),  # it never came as far as its checkpoint
        ([500, 500, 500], 2),  # a command that goes on
        ([0, 10, 10, 20, 30, 30, 30], 6),
        ([0, 10, 0, 0], 3),  # a damaged checkpoint is no progress, nor is its step again
    ],
)
def test_a_stage_has_as_many_tries_from_every_checkpoint(
    began_at: Sequence[int | None], retried: int
) -> None:
    gangs = iter(began_at)
    line: Any = SimpleNamespace(look=lambda: SimpleNamespace(began_at=next(gangs)))
    policy = SinceProgress(FailureConfig(max_failures=2), line=line)
    decisions = [policy.make_decision(LOST) for _ in began_at]
    wanted = [FailureDecision.RETRY] * retried
    assert decisions[: retried + 1] == [*wanted, FailureDecision.RAISE]
