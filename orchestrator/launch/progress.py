"""A progress bar for commands that count clips; nothing where there is no terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Count(Protocol):
    """Takes the number of finished clips, and of all where that was not known before."""

    def __call__(self, done: int, total: int | None = None) -> None:
        """Moves the bar; from any thread."""
        ...


@contextmanager
def counting(what: str, *, total: int | None) -> Iterator[Count]:
    """Yields a function that takes the number of finished clips; shown on stderr."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=total)

        def count(done: int, total: int | None = None) -> None:
            bar.update(task, completed=done, total=total)

        yield count
