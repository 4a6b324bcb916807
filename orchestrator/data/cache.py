"""Shards on local disk: whole, hashed, fetched once a node, within a byte budget."""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from hashlib import sha256
from io import FileIO
from pathlib import Path
from urllib.parse import quote

import xxhash

from orchestrator.data.fetcher import Fetcher
from orchestrator.data.room import locked, make_room
from orchestrator.data.shard_files import most_open
from orchestrator.errors import UserError
from orchestrator.storage.files import OpenFile, OpenFiles
from orchestrator.storage.local import writing
from orchestrator.storage.store import Begin, Store

_FIELD = "data.cache_dir"
_MOST_NAME = 200  # bytes; file systems take 255, ours have more behind them
_TOUCH_S = 30.0  # a shard that is read says so this often: its time decides what makes room
_IDLE_S = 60.0  # one that made room, and is not read for so long, gives its space back
_AHEAD = 4  # shards that are fetched at once


class ShardCache:
    """Copies of a remote store's shards in a folder that all ranks of a node share.

    A copy that makes room for others while it is open can be read on; its space is free once it
    is closed. That comes on top of the budget, and is bounded by it.

    Args:
        store: where the shards lie.
        folder: of the copies; None for one below the system's temporary folder.
        budget_bytes: of that folder, over all stores.
        hashes: xxh64 of whole shards by name, of those that it is known of.
        sizes: bytes of whole shards likewise; others are in memory while they are fetched.
        sources: that this process reads, each of which has an even share of the budget for what is
            fetched ahead and for what is open.
    """

    def __init__(
        self,
        store: Store,
        *,
        folder: str | None,
        budget_bytes: int,
        hashes: Mapping[str, str],
        sizes: Mapping[str, int],
        sources: int = 1,
    ) -> None:
        name = sha256(store.uri.encode()).hexdigest()[:16]
        root = Path(folder) if folder else _default_folder()
        self._store = store
        self._root = root
        self._folder = root / name
        with writing(self._folder, field=_FIELD):
            self._folder.mkdir(parents=True, exist_ok=True)
        self._budget_bytes = budget_bytes
        self._hashes = hashes
        self._sizes = sizes
        self._share_bytes = budget_bytes // sources
        self._forgotten: set[str] = set()
        self._forgetting = threading.Lock()
        self._open = OpenFiles(most=most_open(sources))
        self._fetcher = Fetcher(self._fetch, threads=_AHEAD)

    def open(self, shard: str) -> OpenFile:
        """A shard, which is fetched first if it is not here.

        Raises:
            UserError: if it is not what its hash says, also when it is fetched once more.
        """
        file = self._open.get(shard)
        now_s = time.monotonic()
        if file is None:
            self._close_deleted(now_s)
            file = self._opened(shard)
            self._open.put(shard, file)
        if now_s - file.touched_s > _TOUCH_S:
            file.touch()
            file.touched_s = now_s
        return file

    def forget(self, shard: str, *, seen: OpenFile) -> bool:
        """Drops the copy that turned out to be damaged, unless another was fetched meanwhile.

        A shard is fetched again once, however many of its samples are damaged: after that they are
        so where it comes from.
        """
        path = self._path(shard)
        with self._forgetting:
            if seen.is_at(path):
                if shard in self._forgotten:
                    return False
                self._forgotten.add(shard)
                path.unlink(missing_ok=True)
            self._open.drop(seen)
        return True

    def fetch_ahead(self, shards: Iterable[str]) -> None:
        """Fetches those that are not here yet behind the caller's back, the first of them first.

        What was asked for before and has not begun is forgotten. What fails is left to who opens
        it. Those that are here are kept before others that are not wanted. All together must fit
        into the budget, and those that are fetched into half of it, or they would push each other
        out; but the first one is always wanted.
        """
        left_bytes, ahead_bytes = self._share_bytes, self._share_bytes // 2
        here: list[str] = []
        missing: list[str] = []
        for shard in dict.fromkeys(shards):
            size = self._sizes.get(shard, 0)
            is_here = self._path(shard).exists() or shard in self._open
            left_bytes -= size
            ahead_bytes -= 0 if is_here else size
            if (here or missing) and min(left_bytes, ahead_bytes) < 0:
                break
            (here if is_here else missing).append(shard)
        for shard in reversed(here):  # the first one leaves last
            with suppress(OSError):  # gone since, or another user's
                os.utime(self._path(shard))
        self._fetcher.want(missing)

    def close(self) -> None:
        """Keeps no shard open, and fetches none ahead but those that are being fetched."""
        self._fetcher.want(())
        self._open.clear()

    def _opened(self, shard: str) -> OpenFile:
        path = self._path(shard)
        while True:
            try:
                return OpenFile(path)
            except FileNotFoundError:
                self._fetch(shard)

    def _close_deleted(self, now_s: float) -> None:
        left_bytes = self._share_bytes
        for file in reversed(self._open.all()):
            if file.is_deleted():
                left_bytes -= file.size
                if left_bytes < 0 or now_s - file.touched_s > _IDLE_S:
                    self._open.drop(file)

    def _path(self, shard: str) -> Path:
        name = quote(shard, safe="")
        if len(name) > _MOST_NAME:
            name = f"{sha256(shard.encode()).hexdigest()}.tar"
        return self._folder / name

    def _fetch(self, shard: str) -> None:
        path = self._path(shard)
        with locked(path, field=_FIELD):
            if path.exists():
                return  # another rank was faster
            get, size = partial(self._store.get_in_pieces, shard), self._sizes.get(shard)
            if size is None:
                data = self._store.get(shard)
                get, size = partial(_at_once, data), len(data)
            # Ours while we hold the lock, also one that a dead rank left.
            part = make_room(
                self._root, path, size=size, budget_bytes=self._budget_bytes, field=_FIELD
            )
            try:
                self._fill(part, shard=shard, get=get)
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def _fill(self, part: Path, *, shard: str, get: Callable[[Begin], None]) -> None:
        wanted = self._hashes.get(shard)
        seen = ""
        for _ in range(2):
            with writing(part, field=_FIELD), part.open("r+b", buffering=0) as file:
                copy = _Copy(file, path=part)
                get(copy.begin)
                seen = copy.end()
            if wanted in (None, seen):
                return
        raise UserError(
            f"{self._store.uri}/{shard} is damaged: xxh64={seen}, wanted {wanted}; it was fetched "
            "twice"
        )


class _Copy:
    """A file that is filled, and hashed while its pieces are in the processor's cache."""

    def __init__(self, file: FileIO, *, path: Path) -> None:
        self._file = file
        self._path = path
        self._hash = xxhash.xxh64()

    def begin(self) -> Callable[[bytes], None]:
        """From its first byte on, whatever was written before."""
        self._file.seek(0)
        self._hash.reset()
        return self._take

    def _take(self, piece: bytes) -> None:
        self._hash.update(piece)
        with writing(self._path, field=_FIELD):  # here: a store takes a full disk for its own
            rest = memoryview(piece)
            while rest:
                rest = rest[self._file.write(rest) :]

    def end(self) -> str:
        """Its hash; what is left of the room behind it is given back."""
        self._file.truncate()
        return self._hash.hexdigest()


def _at_once(data: bytes, begin: Begin) -> None:
    begin()(data)


def _default_folder() -> Path:
    """One per user: another user's could not be written."""
    return Path(tempfile.gettempdir()) / f"rushes-cache-{os.getuid()}"
