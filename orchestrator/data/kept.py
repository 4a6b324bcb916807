"""Decoded samples that stay in memory."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from orchestrator.data.rows import Sample


class Kept:
    """Samples by row within a budget, for any thread; the least recently used leave first."""

    def __init__(self, *, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._used_bytes = 0
        self._samples: OrderedDict[int, tuple[Sample, dict[str, Any], int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, row: int) -> tuple[Sample, dict[str, Any]] | None:
        """The sample of a row, if it is here."""
        with self._lock:
            if row not in self._samples:
                return None
            self._samples.move_to_end(row)
            sample, arrays, _ = self._samples[row]
            return sample, arrays

    def put(self, row: int, sample: Sample, arrays: dict[str, Any]) -> dict[str, Any]:
        """Keeps a sample if there can be room for it; returns its arrays."""
        size = _bytes(arrays)
        with self._lock:
            if size > self._budget_bytes or row in self._samples:
                return arrays
            self._samples[row] = (sample, arrays, size)
            self._used_bytes += size
            while self._used_bytes > self._budget_bytes:
                _, (_, _, dropped) = self._samples.popitem(last=False)
                self._used_bytes -= dropped
        return arrays


def _bytes(arrays: Mapping[str, Any]) -> int:
    return sum(one.nbytes for one in arrays.values() if isinstance(one, np.ndarray))
