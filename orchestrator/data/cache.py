"""Shards on local disk: whole, hashed, fetched once a node, within a byte budget."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import xxhash

from orchestrator.errors import UserError
from orchestrator.storage.local import writing
from orchestrator.storage.store import Store

_FIELD = "data.cache_dir"
_MOST_NAME = 200  # bytes; file systems take 255, ours have more behind them


class ShardCache:
    """Copies of a remote store's shards in a folder that all ranks of a node share.

    Args:
        store: where the shards lie.
        folder: of the copies; None for one below the system's temporary folder.
        budget_bytes: of that folder, over all stores.
        hashes: xxh64 of whole shards by name, of those that it is known of.
    """

    def __init__(
        self,
        store: Store,
        *,
        folder: str | None,
        budget_bytes: int,
        hashes: Mapping[str, str],
    ) -> None:
        name = hashlib.sha256(store.uri.encode()).hexdigest()[:16]
        root = Path(folder) if folder else _default_folder()
        self._store = store
        self._root = root
        self._folder = root / name
        with writing(self._folder, field=_FIELD):
            self._folder.mkdir(parents=True, exist_ok=True)
        self._budget_bytes = budget_bytes
        self._hashes = hashes

    def read(self, shard: str, *, offset: int, size: int) -> bytes:
        """Bytes of a shard, which is fetched first if it is not here.

        Raises:
            UserError: if it is not what its hash says, also when it is fetched once more.
        """
        path = self._path(shard)
        while True:
            try:
                with path.open("rb") as file:
                    os.utime(file.fileno())  # not the path: another process may have dropped it
                    file.seek(offset)
                    return file.read(size)
            except FileNotFoundError:
                self._fetch(shard, path)

    def forget(self, shard: str) -> None:
        """Drops a copy that turned out to be damaged."""
        self._path(shard).unlink(missing_ok=True)

    def _path(self, shard: str) -> Path:
        name = quote(shard, safe="")
        if len(name) > _MOST_NAME:
            name = f"{hashlib.sha256(shard.encode()).hexdigest()}.tar"
        return self._folder / name

    def _fetch(self, shard: str, path: Path) -> None:
        with self._locked(path.name):
            if path.exists():
                return  # another rank was faster
            data = self._whole(shard)
            self._make_room(len(data))
            part = path.with_suffix(".part")  # ours while we hold the lock, also a dead rank's
            with writing(part, field=_FIELD):
                try:
                    part.write_bytes(data)
                except OSError:
                    part.unlink(missing_ok=True)
                    raise
                part.replace(path)

    def _whole(self, shard: str) -> bytes:
        wanted = self._hashes.get(shard)
        for _ in range(2):
            data = self._store.get(shard)
            seen = xxhash.xxh64_hexdigest(data)
            if wanted in (None, seen):
                return data
        raise UserError(
            f"{self._store.uri}/{shard} is damaged: xxh64={seen}, wanted {wanted}; it was fetched "
            "twice"
        )

    def _make_room(self, needed_bytes: int) -> None:
        files: list[tuple[float, int, Path]] = []
        for path in self._root.glob("*/*.tar"):
            with suppress(FileNotFoundError):
                stat = path.stat()
                files.append((stat.st_mtime, stat.st_size, path))
        used = sum(size for _, size, _ in files) + needed_bytes
        for _, size, path in sorted(files):
            if used <= self._budget_bytes:
                return
            path.unlink(missing_ok=True)
            used -= size

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        path = self._folder / f"{name}.lock"
        with writing(path, field=_FIELD):
            lock = path.open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _default_folder() -> Path:
    """One per user: another user's could not be written."""
    return Path(tempfile.gettempdir()) / f"rushes-cache-{os.getuid()}"
