"""What is asked of the run's own storage: files that events name, and who owns the run."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import RushesError, UserError
from orchestrator.storage import attempts
from orchestrator.storage.json_files import read_lines
from orchestrator.storage.store import open_store
from orchestrator.storage.uri import FILE_SCHEMES, local_path, scheme_of
from orchestrator.tracking.sink import NotNowError, Point, RejectedError, points_of


@contextmanager
def fetched(uri: str) -> Iterator[Path]:
    """The file at ``uri`` under its own name; a copy of what is not local, for as long as used.

    Raises:
        FileNotFoundError, UserError: if there is none.
        UnavailableError: if its store does not answer.
    """
    if scheme_of(uri) in FILE_SCHEMES:
        path = local_path(uri)
        if not path.is_file():
            raise FileNotFoundError(str(path))
        yield path
        return
    folder_uri, _, name = uri.rpartition("/")
    data = open_store(folder_uri).get(name)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / name
        copy.write_bytes(data)
        yield copy


def logged(uri: str) -> list[Point]:
    """All values of a ``metrics.jsonl``; lines that are damaged are left out.

    Raises:
        RejectedError: if there is none, or it holds something else.
        NotNowError: if its store does not answer.
    """
    points: list[Point] = []
    try:
        with fetched(uri) as path:
            rows, damaged = read_lines(path.read_bytes())
        if damaged and not rows:
            raise ValueError("no line of it is a logged step")
        for values in rows:
            head = {name: values.pop(name) for name in ("step", "time_ms")}
            points.extend(points_of(head | {"values": values}))
    except (UserError, FileNotFoundError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise RejectedError(f"{uri}: {error!r}") from error
    except RushesError as error:
        raise NotNowError(str(error)) from error
    return points


def newest_attempt(run_uri: str) -> int:
    """Number of a run's newest start; 0 before the first.

    Raises:
        NotNowError: if its store does not answer.
    """
    try:
        return attempts.newest_attempt(open_store(run_uri))
    except RushesError as error:
        raise NotNowError(str(error)) from error
