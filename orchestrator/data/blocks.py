"""Arrays of several samples side by side, in memory that is used again once they are gone."""

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Allocate = Callable[[int], NDArray[np.uint8]]
"""Makes an array of so many bytes, with anything in them; called by any thread."""

_FREE = 4  # blocks that wait to be used again, at most


def allocate(size: int) -> NDArray[np.uint8]:
    """Ordinary memory."""
    return np.empty(size, dtype=np.uint8)


class Blocks:
    """Memory for arrays: a block that no array lies in any more is given out again.

    Pages that are new from the system cost more than reading a file into them does.

    Args:
        allocate: where blocks come from.
    """

    def __init__(self, *, allocate: Allocate = allocate) -> None:
        self._allocate = allocate
        self._blocks = [np.empty(0, dtype=np.uint8)]
        self._unused = self._references(0)  # to a block in which no array lies
        self._lock = threading.Lock()

    def take(self, size: int) -> NDArray[np.uint8]:
        """[size], with anything in it; it is free again when the last view of it is gone."""
        with self._lock:
            free: list[int] = []
            for place in range(len(self._blocks)):
                if self._references(place) > self._unused:
                    continue
                if size <= self._blocks[place].nbytes <= 2 * size:
                    return self._blocks[place][:size]
                free.append(place)
            for place in reversed(free[:-_FREE]):
                del self._blocks[place]
            block = self._allocate(size)
            self._blocks.append(block)
            return block[:]

    def _references(self, place: int) -> int:
        return sys.getrefcount(self._blocks[place])


def stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Arrays of one shape and type as one, [N, ...]: not copied where they lie side by side.

    So nobody may write into what comes back.

    Raises:
        ValueError: if there are none, or their shapes differ.
    """
    together = side_by_side(arrays)
    return np.stack(arrays) if together is None else together


def side_by_side(arrays: Sequence[NDArray[Any]]) -> NDArray[Any] | None:
    """Arrays as the one that they lie in, [N, ...]; None if they do not.

    Raises:
        ValueError: if there are none.
    """
    if not arrays:
        raise ValueError("no arrays, wanted at least one")
    first = arrays[0]
    base, shape, dtype, step = first.base, first.shape, first.dtype, first.nbytes
    # What a block itself is made of is no array, if anything.
    if not isinstance(base, np.ndarray) or isinstance(base.base, np.ndarray):
        return None
    if not (first.flags.c_contiguous and base.flags.c_contiguous and base.flags.writeable):
        return None
    start = address = _address(first)
    for array in arrays:
        if (
            array.base is not base
            or array.shape != shape
            or array.dtype != dtype
            or array.strides != first.strides
            or _address(array) != address
        ):
            return None
        address += step
    return np.ndarray(
        (len(arrays), *shape), dtype=dtype, buffer=base, offset=start - _address(base)
    )


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
