"""Chains of tasks on Ray Data: each is a row, taken by whichever process is free. Imports Ray."""

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import ray
import ray.data
from ray.exceptions import RayError

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
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.max_errored_blocks = -1  # a process that died; what tasks raise comes as JSON
        _hush()

    def run(self, chains: Sequence[Chain], *, on_done: OnDone) -> list[Chain]:
        """All chains, several at once."""
        needs = chains[0][0]
        self._check_room(needs)
        rows = [
            {"number": number, "tasks": [task.to_json() for task in chain]}
            for number, chain in enumerate(chains)
        ]
        left = dict(enumerate(chains))
        try:
            with warnings.catch_warnings():
                # Ray 2.64 is to know no max_retries here; Ray is pinned, and has no other way yet.
                warnings.simplefilter("ignore")
                done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                    _work,
                    compute=ray.data.TaskPoolStrategy(size=self._workers),
                    num_cpus=needs.cpus,
                    num_gpus=needs.gpus or None,
                    max_retries=_RETRIES,
                    runtime_env={"env_vars": _ENV},
                )
            for row in done.iter_rows():
                answered(row["answer"])
                on_done(left.pop(row["number"]))
                self._look()
        except (RayError, ConnectionError) as error:
            line = str(error).strip().splitlines()[0]
            raise UnavailableError(
                f"lost Ray: {type(error).__name__}: {line}; start the same command again, it goes "
                "on with what is done"
            ) from None
        return list(left.values())

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


def _work(row: dict[str, Any]) -> dict[str, Any]:
    return {"number": row["number"], "answer": work(row["tasks"])}


def _hush() -> None:
    """Ray Data tells of every process that died on the terminal; its log file has it, too."""
    logger = logging.getLogger("ray.data")
    for handler in list(logger.handlers):
        if isinstance(handler, logging.StreamHandler):
            logger.removeHandler(handler)
