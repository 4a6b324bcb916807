"""Ray Train's scaling policies, with the decisions of ``planner``.

They run inside Ray Train's controller, which asks them about once a second. What we touch of Ray's
inside is held by tests/contract/test_ray_private.py.
"""

import time
from collections.abc import Sequence
from typing import Any

from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    FixedScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)

from orchestrator.cascade.nodes import draining_nodes, free_nodes
from orchestrator.cascade.places import Line
from orchestrator.cascade.planner import Cluster, Planner

_POLL_S = 0.5  # Ray Train asks again at once while there is no gang


def create_policy(
    scaling: Any, *, line: Line, sizes: Sequence[int]
) -> "FixedPolicy | ElasticPolicy":
    """The policy of a stage.

    Args:
        scaling: Ray's ScalingConfig.
        line: to the stage's gang.
        sizes: numbers of workers that it may run with; one: a gang of fixed size.
    """
    planner = Planner(
        line=line,
        cluster=Cluster(free=free_nodes, draining=draining_nodes),
        sizes=sizes,
        needs=scaling._resources_per_worker_not_none,
    )
    return (ElasticPolicy if len(sizes) > 1 else FixedPolicy)(scaling, planner)


class FixedPolicy(FixedScalingPolicy):
    """A gang of one size: leaves nodes that are about to be taken away."""

    def __init__(self, scaling: Any, planner: Planner) -> None:
        super().__init__(scaling)
        self._planner = planner

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Starts the gang anew elsewhere once it is saved."""
        self._maybe_send_resource_request()
        return _decide(self, _resize(self._planner, worker_group_state))


class ElasticPolicy(ElasticScalingPolicy):
    """A gang that takes what there is, in legal sizes, and grows when nodes come back."""

    def __init__(self, scaling: Any, planner: Planner) -> None:
        super().__init__(scaling)
        self._planner = planner

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Starts with what there is, or waits for the least that is needed."""
        self._maybe_send_resource_request()
        size = self._planner.start()
        if size is None:
            time.sleep(_POLL_S)
        return _decide(self, size)

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Starts the gang anew, larger or elsewhere, once it is saved."""
        self._maybe_send_resource_request()
        return _decide(self, _resize(self._planner, worker_group_state))


def _resize(planner: Planner, gang: Any) -> int | None:
    return planner.resize(
        workers=gang.num_workers, on={worker.metadata.node_id for worker in gang.workers}
    )


def _decide(policy: FixedPolicy | ElasticPolicy, size: int | None) -> ScalingDecision:
    if size is None:
        return NoopDecision()
    resources: Any = policy.scaling_config._resources_per_worker_not_none
    return ResizeDecision(num_workers=size, resources_per_worker=resources)
