"""What a user reads of what Ray raises."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import (
    ActorDiedError,
    LocalRayletDiedError,
    OwnerDiedError,
    RayActorError,
    RayTaskError,
    RpcError,
)
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    InsufficientClusterResourcesError,
    WorkerGroupStartupTimeoutError,
)

from orchestrator.cascade.executor import NoRoomError
from orchestrator.cascade.explain import explain
from orchestrator.cascade.failures import DefectError, EndAtOnce
from orchestrator.errors import RushesError, UnavailableError, UserError


def test_an_error_of_ours_comes_back_as_it_was(tmp_path: Path) -> None:
    failure = ControllerError(UserError("clip.frames=7"))
    error = explain(failure, stage="dit", log=tmp_path / "log")
    assert isinstance(error, UserError)
    assert str(error) == "clip.frames=7"


def test_another_becomes_one_line_with_a_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "dit.log"
    failure = WorkerGroupError("Traceback of rank 1", {1: RuntimeError("oom\nmore")})
    error = explain(failure, stage="dit", log=log)
    assert type(error) is RushesError
    assert str(error) == f"stage dit: RuntimeError: oom; log: {log}"
    assert "Traceback" in log.read_text()
    assert "more" in log.read_text()


def test_neither_the_line_nor_its_log_holds_a_secret(tmp_path: Path) -> None:
    log = tmp_path / "dit.log"
    text = "GET https://me:planted@host/clip?token=planted"  # secret-scan: ok
    failure = WorkerGroupError(f"Traceback: {text}", {1: RuntimeError(text)})
    error = explain(failure, stage="dit", log=log)
    assert "GET https://***@host/clip?token=***" in str(error)
    assert "planted" not in str(error) + log.read_text()


def test_a_gang_without_a_place_may_find_one_later(tmp_path: Path) -> None:
    failure = ControllerError(WorkerGroupStartupTimeoutError(2))
    assert isinstance(explain(failure, stage="dit", log=tmp_path / "log"), NoRoomError)


def test_more_than_a_cluster_may_grow_to_is_the_outside(tmp_path: Path) -> None:
    failure = ControllerError(InsufficientClusterResourcesError("100 GPU"))
    error = explain(failure, stage="dit", log=tmp_path / "log")
    assert type(error) is UnavailableError


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("evaluate", "Traceback", cause, proctitle="p", pid=1, ip="127.0.0.1")


@pytest.mark.parametrize(
    "error",
    [
        ActorDiedError(),
        ControllerError(ActorDiedError()),
        task_error(ActorDiedError()),
        OwnerDiedError("00", None, ""),
        LocalRayletDiedError(),
        RpcError("failed to connect to all addresses"),
        ConnectionError("refused"),
    ],
)
def test_a_cluster_that_is_gone_is_the_outside(error: Exception, tmp_path: Path) -> None:
    known = explain(error, stage="dit", log=tmp_path / "log")
    assert type(known) is UnavailableError
    assert len(str(known).splitlines()) == 1
    assert "stage dit: lost Ray: " in str(known)
    assert "start the same command again" in str(known)


@pytest.mark.parametrize(
    "error",
    [
        WorkerGroupError("rank 0 crashed", {0: ActorDiedError()}),
        RayActorError(actor_init_failed=True),
        task_error(ConnectionError("no route to a model hub")),
    ],
)
def test_a_worker_in_trouble_is_the_stages_failure(error: Exception, tmp_path: Path) -> None:
    assert type(explain(error, stage="dit", log=tmp_path / "log")) is RushesError


def poll(**errors: Exception) -> Any:
    return SimpleNamespace(
        errors={int(rank[1:]): error for rank, error in errors.items()},
        get_error_string=lambda: "Traceback of all ranks",
    )


@pytest.mark.parametrize("error", [RuntimeError("nccl"), OSError("disk"), MemoryError()])
def test_what_a_new_gang_may_cure_is_left_to_the_budget(error: Exception) -> None:
    EndAtOnce().after_worker_group_poll_status(poll(r0=error))


def test_an_error_of_ours_ends_a_stage_at_once() -> None:
    with pytest.raises(UnavailableError, match="store"):
        EndAtOnce().after_worker_group_poll_status(
            poll(r0=RuntimeError("peer closed"), r1=UnavailableError("store"))
        )


def test_a_defect_ends_a_stage_at_once() -> None:
    with pytest.raises(DefectError, match="rank 1: TypeError: no"):
        EndAtOnce().after_worker_group_poll_status(poll(r1=TypeError("no")))
