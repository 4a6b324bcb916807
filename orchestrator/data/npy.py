"""Arrays of ``.npy`` files as views on the bytes of the file."""

import io
import math
import struct
import threading
import tokenize
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Buffer = bytes | memoryview

_NO_HEADER = (EOFError, ValueError, SyntaxError, tokenize.TokenError, RecursionError)
_PARSING = threading.Lock()  # Python before 3.13 fails where threads parse at a time (gh-106905)
_LENGTHS = {1: "<H", 2: "<I"}  # of the header's text, by version; it stands after eight bytes


@dataclass(frozen=True)
class Layout:
    """What the header of an ``.npy`` file says of the array behind it.

    Attributes:
        header: its bytes.
        dtype, shape: of the array.
        order: ``C`` or ``F``.
    """

    header: bytes
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: str

    @cached_property
    def nbytes(self) -> int:
        """What the array weighs."""
        return math.prod(self.shape) * self.dtype.itemsize


def layout_of(data: Buffer) -> Layout:
    """Reads the header of a file.

    Raises:
        ValueError: if it is none, of a version that only arrays of records have, or the array's
            elements are Python objects.
    """
    version = data[6] if len(data) > 6 else 1
    width = struct.calcsize(_LENGTHS.get(version, "<H"))
    text = int.from_bytes(data[8 : 8 + width], "little")
    return _parsed(bytes(data[: 8 + width + text]))


def npy_view(data: Buffer) -> NDArray[Any]:
    """The array in a file, without a copy.

    Raises:
        ValueError: if it is no such file, or breaks off.
    """
    layout = layout_of(data)
    seen = len(data) - len(layout.header)
    if seen < layout.nbytes:
        raise ValueError(f"not an npy: an array of {seen} bytes, wanted {layout.nbytes}")
    return np.ndarray(
        layout.shape,
        dtype=layout.dtype,
        buffer=data,
        offset=len(layout.header),
        order="F" if layout.order == "F" else "C",
    )


@lru_cache(maxsize=256)  # the text is Python, and parsing it costs more than reading the array
def _parsed(header: bytes) -> Layout:
    stream = io.BytesIO(header)
    try:
        with _PARSING:
            match np.lib.format.read_magic(stream):
                case (1, 0):
                    said = np.lib.format.read_array_header_1_0(stream)
                case (2, 0):
                    said = np.lib.format.read_array_header_2_0(stream)
                case other:
                    raise ValueError(f"version {other}, wanted (1, 0) or (2, 0)")
    except _NO_HEADER as error:
        raise ValueError(f"not an npy: {error}") from None
    shape, is_fortran, dtype = said
    if dtype.hasobject:
        raise ValueError("not an npy: Object arrays are not read")
    if min(shape, default=0) < 0:
        raise ValueError(f"not an npy: a side of {min(shape)}")
    return Layout(header=header, dtype=dtype, shape=shape, order="F" if is_fortran else "C")
