"""Samples of an index as arrays: fetched, checked against their hashes, decoded, kept."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

from orchestrator.data.bad import BadSample, BadSampleError, BadSamples
from orchestrator.data.blocks import Allocate, allocate
from orchestrator.data.cache import ShardCache
from orchestrator.data.decode import decode, is_array
from orchestrator.data.head import told_missing
from orchestrator.data.index import Bucket, Index, Sample
from orchestrator.data.kept import Kept
from orchestrator.data.members import DamagedMember, is_npy, read_member
from orchestrator.data.npy import Buffer
from orchestrator.data.shard_files import LocalShards, ShardFiles
from orchestrator.data.together import Together
from orchestrator.data.windowed import has_one_window, window_of
from orchestrator.errors import UnavailableError
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.files import OpenFile
from orchestrator.storage.uri import FILE_SCHEMES, scheme_of

T = TypeVar("T")

View = Callable[[Mapping[str, Any]], dict[str, Any]]
Read = tuple[Sample, dict[str, Any]]


def arrays_of(sample: Sample, raw: Mapping[str, Buffer]) -> dict[str, Any]:
    """A sample's members as arrays by name.

    Args:
        sample: as the index knows it.
        raw: the members that are arrays, by extension.

    Raises:
        ValueError: if they cannot be decoded, or their frames are not those of the index; the
            text begins with the key.
    """
    return _checked(sample, decode, raw)


def seen_of(sample: Sample, raw: Mapping[str, Buffer], *, draw: float) -> dict[str, Any]:
    """What training sees of a sample, of a longer clip a window; as ``arrays_of``."""
    return _checked(sample, partial(_decoded, sample, draw=draw), raw)


def _decoded(sample: Sample, raw: Mapping[str, Buffer], *, draw: float) -> dict[str, Any]:
    return window_of(sample, raw, draw=draw) if sample.is_windowed else decode(raw)


def _checked(sample: Sample, read: Callable[[T], dict[str, Any]], source: T) -> dict[str, Any]:
    try:
        arrays = read(source)
    except DamagedMember:
        raise
    except ValueError as error:
        raise ValueError(f"{sample.key} cannot be decoded: {error}") from None
    wanted = (*sample.bucket, 3)
    if "frames" in arrays and arrays["frames"].shape != wanted:
        raise ValueError(f"{sample.key}: frames are {arrays['frames'].shape}, wanted {wanted}")
    return arrays


def is_plain(index: Index) -> bool:
    """Whether nothing is to be decoded: all arrays are ``.npy`` files, and none has windows."""
    return all(map(is_npy, filter(is_array, index.extensions))) and not index.windowed


class Reader:
    """Reads samples by row, for any number of threads; small sources stay decoded in memory.

    Samples of a source in which nothing is to be decoded are not kept: the system keeps files in
    memory anyway.

    Args:
        index: the source.
        cache_dir: where remote shards are copied; None for the system's temporary folder.
        cache_bytes: budget of that folder, over all sources.
        memory_bytes: budget of decoded samples; the least recently used leave first.
        view: what is made of a sample's arrays once it is decoded, and kept in their place.
        bad: takes samples that cannot be read, in whose place others are read; None: they are an
            error.
        sources: that this process reads, which share the cache.
        allocate: where memory comes from for samples in which nothing is to be decoded.
    """

    def __init__(
        self,
        index: Index,
        *,
        cache_dir: str | None,
        cache_bytes: int,
        memory_bytes: int,
        view: View | None = None,
        bad: BadSamples | None = None,
        sources: int = 1,
        allocate: Allocate = allocate,
    ) -> None:
        self._index = index
        self._bad = bad
        self._view = view
        self._kept = Kept(budget_bytes=memory_bytes)
        self._together = Together(allocate=allocate)
        self._is_plain = view is None and is_plain(index)
        self._shards: ShardFiles
        self._broken: tuple[type[Exception], ...] = (DamagedMember,)
        if scheme_of(index.store.uri) in FILE_SCHEMES:
            self._shards = LocalShards(index.store, sources=sources)
        else:
            self._broken = (DamagedMember, UnavailableError)  # of a disk: the store has it still
            # Where samples may be bad, one must not take its whole shard along: the hashes of
            # members decide.
            self._shards = ShardCache(
                index.store,
                folder=cache_dir,
                budget_bytes=cache_bytes,
                hashes=index.hashes if bad is None else {},
                sizes=index.sizes,
                sources=sources,
            )

    def read(self, row: int, *, draw: float = 0.0) -> Read:
        """The sample in a row and its arrays; callers must not write into them.

        A window of a longer clip is not kept in memory, as the next draw takes another; nor is the
        clip, which is not decoded whole for it.

        Args:
            row: of the index.
            draw: in [0, 1); places the window of a clip that is longer than its bucket.

        Raises:
            BadSampleError: if a member is not what its hash says, also after it was fetched again,
                or cannot be decoded, and no more such samples are allowed.
            UserError: if its shard is not what its hash says, after it was fetched again.
            NotFoundError: if its shard is missing.
        """
        return self.read_all((row,), draws=(draw,))[0]

    def read_all(self, rows: Sequence[int], *, draws: Sequence[float] | None = None) -> list[Read]:
        """The samples in rows; arrays of one kind lie side by side (``stacked``) where they can.

        In place of a bad sample stands the next good one of its bucket in the order of rows, and
        after the last the first: whoever reads it finds the same. Raises as ``read``.

        Args:
            rows: of the index.
            draws: one for each row, see ``read``; None for all clips' beginnings.
        """
        draws = [0.0] * len(rows) if draws is None else draws
        return [
            one or self._substitute(row, draw=draw)
            for one, row, draw in zip(self._good(rows, draws=draws), rows, draws, strict=True)
        ]

    def _good(self, rows: Sequence[int], *, draws: Sequence[float]) -> list[Read | None]:
        """The samples in rows; None for bad ones."""
        if self._is_plain:
            good = [row for row in dict.fromkeys(rows) if not self._is_bad(row)]
            found = self._read_together(good) if good else {}
            return [found.get(row) for row in rows]
        read: dict[int, Read] = {}
        windows: dict[tuple[int, float], Read] = {}
        for row, draw in zip(rows, draws, strict=True):
            if row in read or (row, draw) in windows or self._is_bad(row):
                continue
            if (kept := self._kept.get(row)) is not None:
                read[row] = kept
                continue
            sample = self._index.sample(row)
            try:
                arrays = self._viewed(sample, draw=draw)
            except BadSampleError as error:
                self._note(error, row=row, sample=sample)
                continue
            if has_one_window(sample):
                read[row] = sample, self._kept.put(row, sample, arrays)
            else:
                windows[row, draw] = sample, arrays
        return [
            read.get(row) or windows.get((row, draw)) for row, draw in zip(rows, draws, strict=True)
        ]

    def instead(self, row: int, *, read: Sample) -> str | None:
        """The key of a row's own sample, if the one that was ``read`` stands in for it."""
        if not self._is_bad(row):
            return None
        own = self._index.sample(row)  # a thread may have read it before it was known to be bad
        return None if own == read else own.key

    def fetch_ahead(self, rows: Iterable[int]) -> None:
        """Says which rows will be read soon, in this order; remote shards are fetched meanwhile.

        It returns at once. What was asked for before and has not begun is forgotten; what does not
        fit into the cache waits until it is asked for again, or read.
        """
        self._shards.fetch_ahead(map(self._index.shard, rows))

    def close(self) -> None:
        """Keeps no shard open, and fetches none ahead; what is read later is opened anew."""
        self._shards.close()

    def _read_together(self, rows: Sequence[int]) -> dict[int, Read]:
        """The samples in rows in which nothing is to be decoded, but bad ones, by row."""
        samples = [self._index.sample(row) for row in rows]
        placed = self._together.place(samples)
        read: dict[int, Read] = {}
        for place, (row, sample) in enumerate(zip(rows, samples, strict=True)):
            try:
                read[row] = sample, self._from_shard(sample, partial(placed.read, place))
            except BadSampleError as error:
                self._note(error, row=row, sample=sample)
        return read

    def _viewed(self, sample: Sample, *, draw: float) -> dict[str, Any]:
        def decoded(file: OpenFile) -> dict[str, Any]:
            wanted = (one for one in sample.members if is_array(one.ext))
            raw = {one.ext: read_member(file, sample, one) for one in wanted}
            return _decoded(sample, raw, draw=draw)

        arrays = self._from_shard(sample, decoded)
        return arrays if self._view is None else self._view(arrays)

    def _is_bad(self, row: int) -> bool:
        return self._bad is not None and self._bad.get(self._index.digest, row) is not None

    def _note(self, error: BadSampleError, *, row: int, sample: Sample) -> None:
        """Notes a sample that cannot be read, or raises why where none may be."""
        if self._bad is None:
            raise error
        index, why = self._index.digest, str(error)
        self._bad.found(BadSample(index=index, row=row, key=sample.key, why=why))

    def _substitute(self, row: int, *, draw: float) -> Read:
        """The next good sample of a bad one's bucket; a bad one that it meets is noted as well."""
        rows = self._buckets[self._index.sample(row).bucket]
        place = bisect_left(rows, row)
        for step in range(1, len(rows)):
            other = rows[(place + step) % len(rows)]
            (found,) = self._good((other,), draws=(draw,))
            if found is not None:
                return found
        raise BadSampleError(
            f"{self._index.store.uri}: all {len(rows)} samples of the bucket of row {row} are bad"
        )

    @cached_property
    def _buckets(self) -> dict[Bucket, list[int]]:
        return self._index.buckets

    def _from_shard(
        self, sample: Sample, read: Callable[[OpenFile], dict[str, Any]]
    ) -> dict[str, Any]:
        """Reads out of a sample's shard; once more out of a new copy if that may help."""
        try:
            file = self._open(sample.shard)
            try:
                return _checked(sample, read, file)
            except self._broken:
                if not self._shards.forget(sample.shard, seen=file):
                    raise
                file = self._open(sample.shard)
                return _checked(sample, read, file)
        except ValueError as error:
            where = f"{self._index.store.uri}/{sample.shard}"
            raise BadSampleError(f"{where}: {error}") from None

    def _open(self, shard: str) -> OpenFile:
        try:
            return self._shards.open(shard)
        except NotFoundError:
            line = told_missing(self._index.head, [shard], shards=self._index.store)
            raise NotFoundError(line) from None
