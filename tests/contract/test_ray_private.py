"""What we rely on inside Ray 2.60.0; after a failure read the files of cascade/ below."""

import inspect

import pytest
from ray._private.state import available_resources_per_node
from ray.train import ControllerError
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupTimeoutError,
)
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailureDecision
from ray.train.v2._internal.execution.worker_group.poll import WorkerGroupPollStatus, WorkerStatus
from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker
from ray.train.v2.api.config import FailureConfig

from orchestrator.cascade.failures import EndAtOnce
from orchestrator.cascade.gang_times import TellGangTimes
from orchestrator.cascade.places import TellPlaces
from orchestrator.cascade.trainer import PrivateStageTrainer, StageTrainer
from orchestrator.errors import UserError


def test_the_helpers_that_we_leave_out_are_among_the_defaults() -> None:
    def names(trainer: type[StageTrainer]) -> set[str]:
        made = trainer(lambda: None)._create_default_callbacks()
        return {type(one).__name__ for one in made}

    class Everything(StageTrainer):
        unused = ()

    everything = names(Everything)
    assert {DatasetsCallback.__name__, PlacementGroupCleanerCallback.__name__} < everything
    assert names(StageTrainer) == everything - {DatasetsCallback.__name__}
    assert names(PrivateStageTrainer) == everything - {
        *(DatasetsCallback.__name__, PlacementGroupCleanerCallback.__name__)
    }


def test_a_worker_starts_without_a_dataset() -> None:
    parameters = inspect.signature(RayTrainWorker.init_train_context).parameters
    assert parameters["dataset_shard_provider"].default is None


def test_a_callback_sees_what_a_rank_raised() -> None:
    error = UserError("one line")
    wrapped = UserExceptionWithTraceback(error, "Traceback")
    status = WorkerGroupPollStatus({0: WorkerStatus(running=False, error=wrapped)})
    assert status.errors == {0: error}
    assert issubclass(EndAtOnce, WorkerGroupCallback)


def test_what_a_callback_raises_is_not_retried() -> None:
    policy = DefaultFailurePolicy(FailureConfig(max_failures=3, controller_failure_limit=3))
    decision = policy.make_decision(ControllerError(UserError("one line")))
    assert decision is FailureDecision.RAISE


@pytest.mark.parametrize(
    "hook",
    [
        "before_worker_group_start",
        "after_worker_group_start",
        "before_worker_group_shutdown",
        "before_worker_group_abort",
    ],
)
def test_a_callback_hears_when_a_gang_takes_its_place_and_leaves_it(hook: str) -> None:
    there = inspect.signature(getattr(WorkerGroupCallback, hook)).parameters
    assert list(inspect.signature(getattr(TellPlaces, hook)).parameters) == list(there)


@pytest.mark.parametrize(
    "hook",
    [
        "after_worker_group_start",
        "after_worker_group_poll_status",
        "before_worker_group_shutdown",
        "before_worker_group_abort",
        "after_worker_group_shutdown",
        "after_worker_group_abort",
    ],
)
def test_a_callback_hears_when_a_gang_begins_fails_ends_and_is_gone(hook: str) -> None:
    there = inspect.signature(getattr(WorkerGroupCallback, hook)).parameters
    assert list(inspect.signature(getattr(TellGangTimes, hook)).parameters) == list(there)


def test_a_gang_without_a_place_ends_with_a_timeout() -> None:
    policy = DefaultFailurePolicy(FailureConfig(controller_failure_limit=1))
    timeout = ControllerError(WorkerGroupStartupTimeoutError(2))
    decisions = [policy.make_decision(timeout) for _ in range(2)]
    assert decisions == [FailureDecision.RETRY, FailureDecision.RAISE]


def test_what_a_node_has_left_is_asked_without_arguments() -> None:
    assert not inspect.signature(available_resources_per_node).parameters
