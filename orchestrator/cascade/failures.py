"""Which failures end a stage at once, and how many of the others it has.

Imported by Ray Train's controller: ``ray.train`` is imported here, torch is not.
"""

from typing import Any

from ray.train import FailureConfig
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.failure_handling.failure_policy import (
    FailureDecision,
    FailurePolicy,
)
from ray.train.v2.api.exceptions import TrainingFailedError

from orchestrator.cascade.explain import one_line
from orchestrator.cascade.places import Line
from orchestrator.errors import RushesError

# Raised again by the same code on the same input: a new gang would only take time.
_DEFECTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    SyntaxError,
    TypeError,
    ValueError,
)


class DefectError(Exception):
    """A worker failed in a way that a retry cannot cure.

    Its text is one line, then the traceback.
    """


class SinceProgress(FailurePolicy):
    """Ray Train's own policy, which counts anew once a gang went on from a later checkpoint.

    What ends a stage is to fail so often at one place; nodes that are lost now and then, in weeks
    of training, are not.

    Args:
        failure_config: how often.
        line: to the stage's gang.
    """

    def __init__(self, failure_config: FailureConfig, *, line: Line) -> None:
        super().__init__(failure_config)
        self._line = line
        self._counts = DefaultFailurePolicy(failure_config)
        self._furthest = 0

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Whether the stage has another try."""
        began_at = self._line.look().began_at
        if began_at is not None and began_at > self._furthest:
            self._furthest, self._counts = began_at, DefaultFailurePolicy(self.failure_config)
        return self._counts.make_decision(training_failed_error)


class EndAtOnce(WorkerGroupCallback):
    """Ends a stage instead of starting its gang again where that is of no use."""

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Raises the first final error; Ray Train's controller does not retry what we raise."""
        errors: dict[int, Exception] = worker_group_status.errors
        for _, error in sorted(errors.items()):
            if isinstance(error, RushesError):
                raise error
        for rank, error in sorted(errors.items()):
            if isinstance(error, _DEFECTS):
                text = f"rank {rank}: {one_line(error)}"
                raise DefectError(f"{text}\n{worker_group_status.get_error_string()}")
