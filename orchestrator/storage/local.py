"""Files on this machine's own disks that are no store: caches, scratch."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import UserError

_USERS = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.ENOTDIR, errno.EROFS)


@contextmanager
def writing(path: Path, *, field: str | None = None) -> Iterator[Path]:
    """Turns a disk that takes no more into one line that names the path.

    Args:
        path: what is written.
        field: what decides where it is.

    Raises:
        UserError: no room or no permission.
    """
    try:
        yield path
    except OSError as error:
        if error.errno not in _USERS:
            raise
        where = str(path) if field is None else f"{field}: {path}"
        raise UserError(f"{where}: {error.strerror}, wanted a writable folder with room") from None
