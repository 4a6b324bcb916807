"""What we rely on inside Ray 2.60.0; after a failure read the files of cascade/ below."""

import dataclasses
import inspect
from types import SimpleNamespace

import pytest
import ray
from ray._private.state import available_resources_per_node, state
from ray.train import ControllerError
from ray.train.torch.config import (
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
)
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupTimeoutError,
)
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailureDecision
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    FixedScalingPolicy,
    ScalingPolicy,
)
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    PlacementGroupHandle,
)
from ray.train.v2._internal.execution.worker_group.poll import WorkerGroupPollStatus, WorkerStatus
from ray.train.v2._internal.execution.worker_group.state import WorkerGroupState
from ray.train.v2._internal.execution.worker_group.worker import ActorMetadata, RayTrainWorker
from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup
from ray.train.v2.api.config import FailureConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from orchestrator.cascade.failures import EndAtOnce
from orchestrator.cascade.gang_times import TellGangTimes
from orchestrator.cascade.places import TellPlaces
from orchestrator.cascade.policies import ElasticPolicy, FixedPolicy
from orchestrator.cascade.ray_hosts import OnHosts
from orchestrator.cascade.ray_loopback import OnLoopback
from orchestrator.cascade.trainer import PrivateStageTrainer, StageTrainer
from orchestrator.errors import UserError

FAILURES = DefaultFailurePolicy(FailureConfig())


def test_the_helpers_that_we_leave_out_are_among_the_defaults() -> None:
    def names(trainer: type[StageTrainer]) -> set[str]:
        policy = FixedScalingPolicy(ScalingConfig(num_workers=1))
        made = trainer(lambda: None, policy=policy, failures=FAILURES)._create_default_callbacks()
        return {type(one).__name__ for one in made}

    class Everything(StageTrainer):
        unused = ()

    everything = names(Everything)
    assert {DatasetsCallback.__name__, PlacementGroupCleanerCallback.__name__} < everything
    assert names(StageTrainer) == everything - {DatasetsCallback.__name__}
    assert names(PrivateStageTrainer) == everything - {
        *(DatasetsCallback.__name__, PlacementGroupCleanerCallback.__name__)
    }


def test_a_private_gang_meets_as_rays_own_does_but_for_its_store() -> None:
    backend = OnLoopback().backend_cls
    policy = FixedScalingPolicy(ScalingConfig(num_workers=1))
    trainer = PrivateStageTrainer(lambda: None, policy=policy, failures=FAILURES)
    assert trainer.backend_config.backend_cls is backend
    assert issubclass(backend, _TorchBackend)
    ours, theirs = (inspect.signature(one.on_start) for one in (backend, _TorchBackend))
    assert list(ours.parameters) == list(theirs.parameters)
    assert not inspect.signature(_set_torch_distributed_env_vars).parameters
    assert callable(WorkerGroup.get_resources_per_worker)
    variable = 'TORCH_NCCL_ASYNC_ERROR_HANDLING_ENV_VAR = "TORCH_NCCL_ASYNC_ERROR_HANDLING"'
    setup = inspect.getsource(_setup_torch_process_group)
    assert variable in setup
    assert 'os.environ[TORCH_NCCL_ASYNC_ERROR_HANDLING_ENV_VAR] = "1"' in setup


def test_a_gang_on_hosts_meets_as_rays_own_does() -> None:
    backend = OnHosts().backend_cls
    policy = FixedScalingPolicy(ScalingConfig(num_workers=1))
    trainer = StageTrainer(lambda: None, policy=policy, failures=FAILURES)
    assert trainer.backend_config.backend_cls is backend
    ours, theirs = (inspect.signature(one.on_start) for one in (backend, _TorchBackend))
    assert list(ours.parameters) == list(theirs.parameters)


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


def test_a_trainer_hands_its_policies_to_the_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: dict[str, object] = {}

    def keep(self: DataParallelTrainer, **options: object) -> SimpleNamespace:
        handed.update(options)
        return SimpleNamespace(error=None)

    monkeypatch.setattr(DataParallelTrainer, "_initialize_and_run_controller", keep)
    monkeypatch.setattr(ray, "put", lambda value: value)  # which would start a cluster
    policy = FixedScalingPolicy(ScalingConfig(num_workers=1))
    StageTrainer(lambda: None, policy=policy, failures=FAILURES).fit()
    assert handed["scaling_policy"] is policy
    assert handed["failure_policy"] is FAILURES
    assert {"callbacks", "train_run_context"} < set(handed)


@pytest.mark.parametrize("policy", [ElasticPolicy, FixedPolicy])
@pytest.mark.parametrize(
    "decision",
    ["make_decision_for_non_running_worker_group", "make_decision_for_running_worker_group"],
)
def test_a_policy_is_asked_as_ray_asks_its_own(policy: type, decision: str) -> None:
    there = inspect.signature(getattr(ScalingPolicy, decision)).parameters
    assert list(inspect.signature(getattr(policy, decision)).parameters) == list(there)
    assert issubclass(policy, ElasticScalingPolicy | FixedScalingPolicy)
    assert callable(ScalingPolicy._maybe_send_resource_request)


def test_a_policy_learns_what_a_gang_is_and_where_it_runs() -> None:
    fields = {one.name for one in dataclasses.fields(WorkerGroupState)}
    assert {"workers", "placement_group_handle"} <= fields
    assert isinstance(WorkerGroupState.num_workers, property)
    assert "node_id" in {one.name for one in dataclasses.fields(ActorMetadata)}
    assert isinstance(PlacementGroupHandle.placement_group, property)
    assert callable(WorkerGroup.get_worker_group_state)
    needs = ScalingConfig(num_workers=(1, 2), resources_per_worker={"CPU": 2.0})
    assert needs._resources_per_worker_not_none == {"CPU": 2.0}


def test_a_planned_restart_uses_up_no_failure() -> None:
    source = inspect.getsource(TrainController._execute_resize_decision)
    assert "_shutdown_worker_group" in source
    assert "_failure_policy" not in source


def test_nodes_that_are_drained_are_asked_without_arguments() -> None:
    assert not inspect.signature(state.get_draining_nodes).parameters
    group = inspect.getsource(type(state)._gen_placement_group_info)
    assert '"bundles_to_node_id"' in group
    assert '"bundles"' in group
