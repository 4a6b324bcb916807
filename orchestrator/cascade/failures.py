"""Which failures end a stage at once, and what is said of those that used up their retries.

Imported by Ray Train's controller: ``ray.train`` is imported here, torch is not.
"""

from typing import Any

from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from orchestrator.cascade.explain import one_line
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
