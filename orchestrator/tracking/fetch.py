"""A file that an event names, on local disk."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.storage.store import open_store
from orchestrator.storage.uri import FILE_SCHEMES, local_path, scheme_of


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
