"""Finds what holds a gang up while Ray sees all its processes alive, says so, and ends it.

Imported by Ray Train's controller: ``ray.train`` is imported here, torch is not.
"""

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from orchestrator.cascade.evidence import Eye, stack_text
from orchestrator.cascade.suspects import Heard, Verdict, collective_text, judge
from orchestrator.errors import RushesError
from orchestrator.storage.store import join_uri, open_store
from orchestrator.train.job import StageJob

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
# A process that was stopped never goes on by itself. One that was not may only be swapping, or in
# a long call that holds Python's lock: it has more time.
SILENT_S = 12.0
FROZEN_S = 60.0
_ANSWER_S = 5.0  # of the board
_LOOK_S = 20.0  # of a node: a process has to start there
_STOPPED = ("stopped", "tracing-stop", "zombie", "dead")


@dataclass(frozen=True)
class Member:
    """A worker of the gang, as Ray knows it."""

    actor: Any
    node_id: str
    node: str
    pid: int


class Watch(WorkerGroupCallback):
    """Watches a stage's gangs, each from a thread: the controller never waits for it.

    Args:
        board: the actor beside the driver, which knows the last beats.
        job: the stage.
    """

    def __init__(self, board: Any, *, job: StageJob) -> None:
        self._board = board
        self._job = job
        self._guard: _Guard | None = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Begins to watch a gang."""
        members = {
            worker.distributed_context.world_rank: Member(
                actor=worker.actor,
                node_id=worker.metadata.node_id,
                node=worker.metadata.hostname,
                pid=worker.metadata.pid,
            )
            for worker in worker_group.get_workers()
        }
        self._guard = _Guard(self._board, job=self._job, members=members)

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """What becomes of this gang is nobody's concern any more."""
        self._leave()

    def before_worker_group_abort(self, worker_group_context: Any) -> None:
        """As a shutdown."""
        self._leave()

    def __getstate__(self) -> dict[str, Any]:
        # Ray sends it to workers too, as a part of the run's configuration.
        return self.__dict__ | {"_guard": None}

    def _leave(self) -> None:
        if self._guard is not None:
            self._guard.closed.set()


class _Guard:
    """Watches one gang until a rank of it was ended, or the gang has."""

    def __init__(self, board: Any, *, job: StageJob, members: Mapping[int, Member]) -> None:
        self.closed = threading.Event()
        self._board = board
        self._job = job
        self._members = members
        self._eyes: dict[str, Any] = {}
        threading.Thread(target=self._watch, name=f"watch-{job.stage}", daemon=True).start()

    def _watch(self) -> None:
        before: Verdict | None = None
        try:
            while not self.closed.wait(LOOK_EVERY_S):
                heard = self._heard()
                verdict = judge(
                    heard,
                    ranks=len(self._members),
                    silent_s=SILENT_S,
                    hang_after_s=self._job.spec.compute.hang_after_s,
                )
                # Twice in a row: a board that was held up itself has old beats for a moment.
                if verdict and before and self._is_fatal(verdict, heard, before=before):
                    return
                before = verdict
        finally:
            for eye in self._eyes.values():
                ray.kill(eye)

    def _heard(self) -> dict[int, Heard]:
        """The last beats of this gang's processes; nothing if the board does not answer."""
        try:
            beats: Any = ray.get(self._board.beats.remote(self._job.stage), timeout=_ANSWER_S)
        except (GetTimeoutError, RayError):
            return {}
        heard: dict[int, Heard] = {}
        for age_s, line in beats:
            beat = json.loads(line)
            member = self._members.get(beat["rank"])
            if member is not None and (member.node, member.pid) == (beat["node"], beat["pid"]):
                heard[beat["rank"]] = Heard(beat=beat, age_s=age_s)
        return heard

    def _is_fatal(self, verdict: Verdict, heard: Mapping[int, Heard], *, before: Verdict) -> bool:
        """Looks at the suspects; tells and ends those that will not come back."""
        suspects = [rank for rank in verdict.ranks if rank in before.ranks]
        if verdict.kind != before.kind or not suspects:
            return False
        seen = self._look_at(suspects, heard)
        if verdict.kind == "silent":
            suspects = [
                rank
                for rank in suspects
                if seen[rank]["state"] in _STOPPED or heard[rank].age_s >= FROZEN_S
            ]
        if not suspects or self.closed.is_set():
            return False
        self._tell(verdict, suspects, heard=heard, seen=seen)
        self._end(suspects, heard)
        return True

    def _look_at(
        self, suspects: Sequence[int], heard: Mapping[int, Heard]
    ) -> dict[int, dict[str, Any]]:
        asked = {
            rank: self._eye(rank).look.remote(self._members[rank].pid, heard[rank].beat["thread"])
            for rank in suspects
        }
        seen: dict[int, dict[str, Any]] = {}
        for rank, answer in asked.items():
            try:
                seen[rank] = ray.get(answer, timeout=_LOOK_S)
            except (GetTimeoutError, RayError) as error:
                reason = f"its node does not answer ({type(error).__name__})"
                seen[rank] = {"state": "unknown", "unreadable": reason}
        return seen

    def _eye(self, rank: int) -> Any:
        node = self._members[rank].node_id
        if node not in self._eyes:
            there = {ray._raylet.RAY_NODE_ID_KEY: node}  # pyright: ignore[reportAttributeAccessIssue]
            self._eyes[node] = ray.remote(num_cpus=0, label_selector=there)(Eye).remote()
        return self._eyes[node]

    def _tell(
        self,
        verdict: Verdict,
        suspects: Sequence[int],
        *,
        heard: Mapping[int, Heard],
        seen: Mapping[int, Mapping[str, Any]],
    ) -> None:
        head = {"stage": self._job.stage}
        events: list[dict[str, Any]] = []
        for rank in suspects:
            line = describe(verdict, beat=heard[rank].beat, seen=seen[rank])
            report = f"{line}\n\n{_stacks(heard[rank].beat, seen[rank])}"
            kept, artifact = self._keep(report, beat=heard[rank].beat)
            text = f"{line}; {kept}; the gang starts again from the last checkpoint"
            events.append(head | {"kind": "note", "text": text})
            if artifact is not None:
                events.append(head | {"kind": "artifact", "uri": artifact, "folder": "hangs"})
        lines = [json.dumps(event) for event in events]
        try:
            ray.get(self._board.exchange.remote(self._job.stage, lines), timeout=_ANSWER_S)
        except (GetTimeoutError, RayError) as error:
            log.warning("not told: %s: %s", type(error).__name__, events)

    def _keep(self, report: str, *, beat: Mapping[str, Any]) -> tuple[str, str | None]:
        """Writes a report to the run's folder; says where, or why not, and its URI."""
        name = f"{self._job.attempt:04d}-{beat['gang']}-rank{beat['rank']}.txt"
        key = f"{self._job.folder}/hangs/{name}"
        try:
            open_store(self._job.run).put(key, report.encode())
        except RushesError as error:
            return f"its stack was not kept: {error}", None
        return f"stack: {key}", join_uri(self._job.run, key)

    def _end(self, suspects: Sequence[int], heard: Mapping[int, Heard]) -> None:
        for rank in suspects:
            member, started = self._members[rank], heard[rank].beat["started"]
            try:
                # Ray's own way may ask the process itself, which does not listen.
                ray.get(self._eye(rank).end.remote(member.pid, started), timeout=_LOOK_S)
            except (GetTimeoutError, RayError) as error:
                log.warning("rank %d was not reached on its node: %s", rank, error)
            ray.kill(member.actor)


def describe(verdict: Verdict, *, beat: Mapping[str, Any], seen: Mapping[str, Any]) -> str:
    """One line on a suspect: who, where, since when, at what."""
    accounts = (seen.get("stack"), beat.get("stack"))  # of a silent rank the own one is old
    stack = next(filter(None, accounts if verdict.kind == "silent" else accounts[::-1]), None)
    place = "stack unreadable"
    if stack:
        place = f"in {stack[-1]['name']} ({stack[-1]['file']}:{stack[-1]['line']})"
    last = beat["collective"]
    state = "" if last is None else " (returned)" if last["returned"] else " (waits in it)"
    return (
        f"rank {beat['rank']} of {beat['ranks']} on {beat['node']} (pid {beat['pid']}) "
        f"{'is silent' if verdict.kind == 'silent' else 'hangs'}: {verdict.why}; "
        f"process {seen['state']}; step {beat['step']}, {beat['phase']} for "
        f"{beat['phase_s']:.0f} s; last {collective_text(last)}{state}; {place}"
    )


def _stacks(beat: Mapping[str, Any], seen: Mapping[str, Any]) -> str:
    parts: list[str] = []
    if "stack" in beat:
        parts.append("Its own account, the innermost frame last:\n" + stack_text(beat["stack"]))
    if "stack" in seen:
        parts.append("Seen from outside, the innermost frame last:\n" + stack_text(seen["stack"]))
    else:
        parts.append(f"From outside its stack could not be read: {seen['unreadable']}\n")
    return "\n".join(parts)
