"""Who does chains of tasks: this process, or others; and what if one of them ends its worker."""

import json
from collections.abc import Callable, Sequence
from typing import Protocol

from orchestrator.data.prepare.tasks import Chain, Task
from orchestrator.data.prepare.work import work
from orchestrator.errors import RushesError, heard

OnDone = Callable[[Chain], None]


class Executor(Protocol):
    """Does chains of tasks; whether here or elsewhere, a task's output is in its store."""

    def run(self, chains: Sequence[Chain], *, on_done: OnDone) -> list[Chain]:
        """Does all that it can.

        Args:
            chains: of tasks that all have the same needs of CPUs and GPUs.
            on_done: told of each that is done; what it raises ends the run.

        Returns:
            Chains whose worker died, each tried twice.

        Raises:
            RushesError: what a task raised.
        """
        ...


class Here:
    """One task after the other in this process, which a broken file may end."""

    def run(self, chains: Sequence[Chain], *, on_done: OnDone) -> list[Chain]:
        """All of them."""
        for chain in chains:
            answered(work([task.to_json() for task in chain]))
            on_done(chain)
        return []


def answered(answer: str) -> None:
    """Raises the error that a worker answered with, if any."""
    tree = json.loads(answer)
    if tree:
        raise heard(tree["error"], where=tree["where"])


def run_surviving(executor: Executor, chains: Sequence[Chain], *, on_done: OnDone) -> None:
    """Does all chains, whatever files do to the workers that read them.

    Where a worker died twice over a chain, its tasks are done one by one. Where one died twice over
    a task, each of its videos is tried alone; the task is then done without those that a worker
    died over again.

    Raises:
        RushesError: what a task raised, or if a worker dies over videos none of which does that
            alone.
    """
    died = executor.run(chains, on_done=on_done)
    _survive(executor, [chain[0] for chain in died if len(chain) == 1])
    longer = [chain for chain in died if len(chain) > 1]
    for place in range(max(map(len, longer), default=0)):
        row = [(chain[place],) for chain in longer if place < len(chain)]
        _survive(executor, [task for (task,) in executor.run(row, on_done=_pass)])
    for chain in died:
        on_done(chain)


def _survive(executor: Executor, died: Sequence[Task]) -> None:
    """Does tasks of several units that a worker died over."""
    alone = [(task.trying(video),) for task in died for video in task.videos]
    dead = [task for (task,) in executor.run(alone, on_done=_pass)] if alone else []
    again = [(task.without(_videos_of(dead, unit=task.unit)),) for task in died]
    for (task,) in executor.run(again, on_done=_pass) if again else []:
        raise RushesError(
            f"{task.where}: workers died over it again and again (out of memory?), "
            f"though none over a video alone; videos: {', '.join(task.videos[:3])}"
        )


def _videos_of(dead: Sequence[Task], *, unit: str) -> tuple[str, ...]:
    return tuple(task.only for task in dead if task.unit == unit and task.only is not None)


def _pass(_: Chain) -> None:
    """Is told of what is tried."""
