"""Samples of an index as arrays: fetched, checked against their hashes, decoded, kept."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xxhash

from orchestrator.data.cache import ShardCache
from orchestrator.data.decode import decode, is_array
from orchestrator.data.index import Index, Member, Sample
from orchestrator.data.windowed import has_one_window, window_of
from orchestrator.errors import UserError
from orchestrator.storage.uri import FILE_SCHEMES, scheme_of

View = Callable[[Mapping[str, Any]], dict[str, Any]]


def arrays_of(sample: Sample, raw: Mapping[str, bytes]) -> dict[str, Any]:
    """All of a sample's members as arrays by name.

    Args:
        sample: as the index knows it.
        raw: the members that are arrays, by extension.

    Raises:
        ValueError: if they cannot be decoded, or their frames are not those of the index; the
            text begins with the key.
    """
    try:
        arrays = decode(raw)
    except ValueError as error:
        raise ValueError(f"{sample.key} cannot be decoded: {error}") from None
    wanted = (*sample.stored, 3)
    if "frames" in arrays and arrays["frames"].shape != wanted:
        raise ValueError(f"{sample.key}: frames are {arrays['frames'].shape}, wanted {wanted}")
    return arrays


class Reader:
    """Reads samples by row; small sources stay decoded in memory.

    Args:
        index: the source.
        cache_dir: where remote shards are copied; None for the system's temporary folder.
        cache_bytes: budget of that folder, over all sources.
        memory_bytes: budget of decoded samples; the least recently used leave first.
        view: what is made of a sample's arrays once it is decoded, and kept in their place.
    """

    def __init__(
        self,
        index: Index,
        *,
        cache_dir: str | None,
        cache_bytes: int,
        memory_bytes: int,
        view: View | None = None,
    ) -> None:
        self._index = index
        self._view = view
        self._memory_bytes = memory_bytes
        self._used_bytes = 0
        self._kept: OrderedDict[int, tuple[Sample, dict[str, Any], int]] = OrderedDict()
        is_local = scheme_of(index.store.uri) in FILE_SCHEMES
        self._cache = (
            None
            if is_local
            else ShardCache(
                index.store, folder=cache_dir, budget_bytes=cache_bytes, hashes=index.hashes
            )
        )

    def read(self, row: int, *, draw: float = 0.0) -> tuple[Sample, dict[str, Any]]:
        """The sample in a row and its arrays; callers must not write into them.

        A window of a longer clip is not kept in memory, as the next draw takes another; nor is the
        clip, which is not decoded whole for it.

        Args:
            row: of the index.
            draw: in [0, 1); places the window of a clip that is longer than its bucket.

        Raises:
            UserError: if a member or its shard is not what its hash says, also after it was fetched
                again, or cannot be decoded.
        """
        if row in self._kept:
            self._kept.move_to_end(row)
            sample, arrays, _ = self._kept[row]
            return sample, arrays
        sample = self._index.sample(row)
        arrays = self._decoded(sample, draw=draw)
        if self._view is not None:
            arrays = self._view(arrays)
        if has_one_window(sample):
            self._keep(row, sample, arrays)
        return sample, arrays

    def _decoded(self, sample: Sample, *, draw: float) -> dict[str, Any]:
        wanted = [member for member in sample.members if is_array(member.ext)]
        raw = {member.ext: self._member(sample, member) for member in wanted}
        try:
            if sample.is_windowed:
                return window_of(sample, raw, draw=draw)
            return arrays_of(sample, raw)
        except ValueError as error:
            raise UserError(f"{self._index.store.uri}/{sample.shard}: {error}") from None

    def _member(self, sample: Sample, member: Member) -> bytes:
        for _ in range(2):
            data = self._bytes(sample.shard, offset=member.offset, size=member.size)
            if xxhash.xxh64_hexdigest(data) == member.xxh64:
                return data
            if self._cache is not None:
                self._cache.forget(sample.shard)
        raise UserError(
            f"{self._index.store.uri}/{sample.shard}: {sample.key}.{member.ext} is damaged: "
            f"xxh64={xxhash.xxh64_hexdigest(data)}, wanted {member.xxh64}"
        )

    def _bytes(self, shard: str, *, offset: int, size: int) -> bytes:
        if self._cache is not None:
            return self._cache.read(shard, offset=offset, size=size)
        return self._index.store.get_range(shard, start=offset, length=size)

    def _keep(self, row: int, sample: Sample, arrays: dict[str, Any]) -> None:
        size = sum(one.nbytes for one in arrays.values() if isinstance(one, np.ndarray))
        if size > self._memory_bytes:
            return
        self._kept[row] = (sample, arrays, size)
        self._used_bytes += size
        while self._used_bytes > self._memory_bytes:
            _, (_, _, dropped) = self._kept.popitem(last=False)
            self._used_bytes -= dropped
