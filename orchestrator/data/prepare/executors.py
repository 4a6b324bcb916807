"""Who does tasks: this process, or others; and what if one of them ends its worker."""

import json
from collections.abc import Callable, Sequence
from typing import Protocol

from orchestrator.data.prepare.tasks import Task
from orchestrator.data.prepare.work import work
from orchestrator.errors import RushesError, heard

OnDone = Callable[[Task], None]


class Executor(Protocol):
    """Does tasks of one step; whether here or elsewhere, a task's output is in its store."""

    def run(self, tasks: Sequence[Task], *, on_done: OnDone) -> list[Task]:
        """Does all that it can.

        Args:
            tasks: all with the same needs of CPUs and GPUs.
            on_done: told of each that is done; what it raises ends the run.

        Returns:
            Tasks whose worker died, each tried twice.

        Raises:
            RushesError: what a task raised.
        """
        ...


class Here:
    """One task after the other in this process, which a broken file may end."""

    def run(self, tasks: Sequence[Task], *, on_done: OnDone) -> list[Task]:
        """All of them."""
        for task in tasks:
            answered(task, work(task.to_json()))
            on_done(task)
        return []


def answered(task: Task, answer: str) -> None:
    """Raises the error that a task answered with, if any."""
    tree = json.loads(answer)
    if "error" in tree:
        raise heard(tree["error"], where=f"{task.step} {task.unit}")


def run_surviving(executor: Executor, tasks: Sequence[Task], *, on_done: OnDone) -> None:
    """Does all tasks, whatever files do to the workers that read them.

    Where a worker died twice over a task, each of its videos is tried alone; the task is then done
    without those that a worker died over again.

    Raises:
        RushesError: what a task raised, or if a worker dies over videos none of which does that
            alone.
    """
    died = executor.run(tasks, on_done=on_done)
    if not died:
        return
    alone = [task.trying(video) for task in died for video in task.videos]
    dead = executor.run(alone, on_done=lambda _: None) if alone else []
    again = [task.without(_videos_of(dead, unit=task.unit)) for task in died]
    for task in executor.run(again, on_done=on_done):
        raise RushesError(
            f"{task.step} {task.unit}: workers died over it again and again (out of memory?), "
            f"though none over a video alone; videos: {', '.join(task.videos[:3])}"
        )


def _videos_of(dead: Sequence[Task], *, unit: str) -> tuple[str, ...]:
    return tuple(task.only for task in dead if task.unit == unit and task.only is not None)
