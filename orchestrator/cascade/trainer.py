"""Ray Train's trainer without the helper processes that a stage has no use for.

Each of them costs two seconds of CPU per stage, half of that in wall time on two cores. What we
touch of Ray's inside is held by tests/contract/test_ray_private.py.
"""

from typing import Any

from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
    get_or_create_autoscaling_coordinator,
)
from ray.train import Result
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailurePolicy
from ray.train.v2._internal.execution.scaling_policy import ScalingPolicy

from orchestrator.cascade.ray_hosts import OnHosts
from orchestrator.cascade.ray_loopback import OnLoopback


class StageTrainer(TorchTrainer):
    """Starts no process for Ray Data's datasets: a stage's stream is its own.

    Args:
        policy: says with how many workers a gang starts, and when it is started anew.
        failures: says whether it is after one.
    """

    meeting: type[TorchConfig] = OnHosts

    def __init__(
        self, *args: Any, policy: ScalingPolicy, failures: FailurePolicy, **options: Any
    ) -> None:
        super().__init__(*args, torch_config=self.meeting(), **options)
        self._policies = {"scaling_policy": policy, "failure_policy": failures}

    def _initialize_and_run_controller(self, **options: Any) -> Result:
        return super()._initialize_and_run_controller(**options | self._policies)

    unused: tuple[type, ...] = (DatasetsCallback,)

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [one for one in callbacks if not isinstance(one, self.unused)]


class PrivateStageTrainer(StageTrainer):
    """For a Ray on this machine that ends with its driver.

    Nobody has to clean up after a lost controller, and a gang is reached on loopback only.
    """

    meeting = OnLoopback
    unused = (DatasetsCallback, PlacementGroupCleanerCallback)


def warm_up() -> None:
    """Starts the actor that the first trainer would wait for; needs a connection to Ray."""
    get_or_create_autoscaling_coordinator()
