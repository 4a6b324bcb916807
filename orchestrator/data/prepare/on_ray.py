"""Chains of tasks on Ray: each is a Ray task, taken by whichever process is free. Imports Ray."""

from collections import deque
from collections.abc import Callable, Sequence

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError

from orchestrator.data.prepare.executors import OnDone, answered
from orchestrator.data.prepare.tasks import Chain, Task
from orchestrator.data.prepare.work import work
from orchestrator.errors import UnavailableError, UserError

_ENV = {  # a process does one task at a time, with one thread
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}
_RETRIES = 1  # of a chain whose process died
_DIED = (WorkerCrashedError, OutOfMemoryError, NodeDiedError)
_AHEAD = 1000  # chains that Ray knows of: what an autoscaler asks nodes for
_LOOK_S = 1.0


class OnRay:
    """Executor on the cluster that this process has joined.

    Args:
        look: called now and then; what it raises ends the run.
        private: this Ray was started for us, and no node will join it.
        workers: processes at once, at most; None for as many as there are CPUs (and GPUs) for.
    """

    def __init__(
        self, *, look: Callable[[], object], private: bool, workers: int | None = None
    ) -> None:
        self._look = look
        self._private = private
        self._workers = workers

    def run(self, chains: Sequence[Chain], *, on_done: OnDone) -> list[Chain]:
        """All chains, several at once."""
        needs = chains[0][0]
        self._check_room(needs)
        do = ray.remote(work).options(
            name=f"prepare {needs.step}",
            num_cpus=needs.cpus,
            num_gpus=needs.gpus or None,
            max_retries=_RETRIES,
            runtime_env={"env_vars": _ENV},
        )
        waiting, under_way = deque(chains), dict[ray.ObjectRef[str], Chain]()
        died: list[Chain] = []
        try:
            while waiting or under_way:
                while waiting and len(under_way) < (self._workers or _AHEAD):
                    chain = waiting.popleft()
                    under_way[do.remote([task.to_json() for task in chain])] = chain
                ended, _ = ray.wait(list(under_way), timeout=_LOOK_S)
                for ref in ended:
                    chain = under_way.pop(ref)
                    try:
                        answer = ray.get(ref)
                    except _DIED:
                        died.append(chain)
                        continue
                    answered(answer)
                    on_done(chain)
                self._look()
        except (RayError, ConnectionError) as error:
            line = str(error).strip().splitlines()[0]
            raise UnavailableError(
                f"lost Ray: {type(error).__name__}: {line}; start the same command again, it goes "
                "on with what is done"
            ) from None
        return died

    def _check_room(self, task: Task) -> None:
        """A task that fits no node would wait for ever."""
        if not self._private:
            return
        has = ray.cluster_resources()
        for what, wanted in (("CPU", task.cpus), ("GPU", task.gpus)):
            if wanted > has.get(what, 0):
                raise UserError(
                    f"{task.step}: wanted {wanted:g} {what}, this machine has "
                    f"{has.get(what, 0):g}; a cluster that has more is named by RAY_ADDRESS"
                )
