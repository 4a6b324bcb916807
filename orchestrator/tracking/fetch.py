"""A file that an event names, on local disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit


@contextmanager
def fetched(uri: str) -> Iterator[Path]:
    """The file at ``uri`` under its own name.

    Raises:
        FileNotFoundError: if there is none.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        raise ValueError(f"{uri}: wanted a local file")
    path = Path(unquote(parts.path) if parts.scheme else uri)
    if not path.is_file():
        raise FileNotFoundError(str(path))
    yield path
