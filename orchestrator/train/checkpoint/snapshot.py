"""A rank's state copied to host memory, laid out as safetensors files."""

import json
import mmap
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.train.checkpoint.format import Range, data_file
from orchestrator.train.engine.base import STATE_KEYS, Engine, Fragment, StateKey
from orchestrator.train.ranks import Ranks

# A rank's state is written in files of about this size. Pinned memory comes in powers of two: with
# its header and the tensor that passes the mark, a part should stay below one.
PART_BYTES = 224 * 2**20
_ALIGNMENT = 8  # bytes, of the tensors' beginning, as safetensors wants


@dataclass(frozen=True)
class Slice:
    """One fragment in a file, and the shape of the parameter that it is a part of."""

    shape: tuple[int, ...]
    range: Range


@dataclass(frozen=True)
class HostFile:
    """One file, ready to be written; its bytes are overwritten by the next copy."""

    name: str
    raw: memoryview
    slices: tuple[Slice, ...]


class HostBuffers:
    """Memory for one copy of a rank's state, allocated once and used by every copy.

    safetensors' own ``save`` copies every tensor twice into fresh memory, which takes longer than
    the copy itself; its format is a JSON header and the tensors' bytes. What an engine owns does
    not change while it lives, so neither do the files' layout and headers.
    """

    def __init__(self, engines: Mapping[str, Engine], *, ranks: Ranks) -> None:
        self._engines = engines
        self._ranks = ranks
        self._writer = secrets.token_hex(4)
        self._files: list[HostFile] = []
        self._places: list[Tensor] = []  # of each file's tensors
        self._stream: torch.cuda.Stream | None = None  # beside the one that trains
        if ranks.device.type == "cuda":
            self._stream = torch.cuda.Stream(ranks.device)
        for part, fragments in enumerate(_parts(engines)):
            self._allocate(part, fragments)

    def begin(self) -> list[HostFile]:
        """The files that ``copy`` fills, from any thread, with masters, moments and EMA of now."""
        if self._stream is not None:  # after what the GPU has still to do
            self._stream.wait_stream(torch.cuda.current_stream(self._ranks.device))
        return self._files

    def copy(self) -> None:
        """Fills the files of ``begin``; until it returns, the engines must not change."""
        if self._stream is None:
            self._fill()
            return
        with torch.cuda.stream(self._stream):
            self._fill()
        self._stream.synchronize()

    def wait_for_device(self) -> None:
        """Until the GPU has done what training told it: what one waits then, the copy costs."""
        if self._stream is not None:
            torch.cuda.current_stream(self._ranks.device).synchronize()

    def _fill(self) -> None:
        for place, fragments in zip(self._places, _parts(self._engines), strict=True):
            end = 0
            for run in _runs(tensor for _, tensor in _tensors(fragments)):
                start, end = end, end + run.numel()
                _copy(place[start:end], run)
            assert end == place.numel()

    def _allocate(self, part: int, fragments: list[tuple[str, Fragment]]) -> None:
        rank, world_size = self._ranks.rank, self._ranks.world_size
        name = data_file(rank=rank, world_size=world_size, writer=self._writer, part=part)
        layout = list(_tensors(fragments))
        header = _header(layout)
        total = len(header) + sum(_bytes(tensor) for _, tensor in layout)
        buffer = self._memory(total)
        buffer[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        slices = tuple(
            Slice(
                shape=fragment.shape,
                range=Range(file=name, key=key, start=fragment.start, numel=fragment.numel),
            )
            for key, fragment in fragments
        )
        self._files.append(HostFile(name=name, raw=buffer.numpy().data, slices=slices))
        self._places.append(buffer[len(header) :].view(torch.float32))

    def _memory(self, size: int) -> Tensor:
        """Bytes from a page boundary on, as the kernel wants what it writes past its cache."""
        if self._ranks.device.type == "cuda":
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        pages = torch.frombuffer(
            mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=torch.uint8
        )
        # Zeros are written, or the system would give the memory page by page to the first copy.
        return pages.zero_()


def _parts(engines: Mapping[str, Engine]) -> Iterator[list[tuple[str, Fragment]]]:
    part: list[tuple[str, Fragment]] = []
    size = 0
    for network, engine in engines.items():
        for fragment in engine.fragments():
            part.append((f"{network}/{fragment.name}", fragment))
            size += fragment.numel * len(STATE_KEYS) * torch.float32.itemsize
            if size >= PART_BYTES:
                yield part
                part, size = [], 0
    if part:
        yield part


def _copy(place: Tensor, tensor: Tensor) -> None:
    if tensor.is_cuda:
        place.copy_(tensor, non_blocking=True)
    else:  # memcpy, by NumPy: it passes the caches by if there is much, in half the time
        np.copyto(place.numpy(), tensor.numpy())


def _tensors(fragments: list[tuple[str, Fragment]]) -> Iterator[tuple[str, Tensor]]:
    """In the order of the file; state by state, as an engine that is sharded keeps them."""
    states: tuple[StateKey, ...] = STATE_KEYS
    for state in states:
        for key, fragment in fragments:
            yield f"{key}/{state}", fragment.tensors[state].detach()


def _runs(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The elements of all, those that lie one behind the other as one tensor."""
    run: Tensor | None = None
    for tensor in tensors:
        if run is not None and _follows(run, tensor):
            length = run.numel() + tensor.numel()
            run = run.as_strided((length,), (1,))
            continue
        if run is not None:
            yield run
        run = tensor.flatten()
    if run is not None:
        yield run


def _follows(run: Tensor, tensor: Tensor) -> bool:
    return (
        tensor.is_contiguous()
        and run.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
        and run.storage_offset() + run.numel() == tensor.storage_offset()
    )


def _header(layout: list[tuple[str, Tensor]]) -> bytes:
    """Source: the format description in the README of huggingface/safetensors."""
    entries: dict[str, object] = {}
    end = 0
    for name, tensor in layout:
        start, end = end, end + _bytes(tensor)
        entries[name] = {"dtype": "F32", "shape": [tensor.numel()], "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> int:
    assert tensor.dtype == torch.float32, f"{tensor.dtype} state, wanted float32"
    return tensor.numel() * tensor.itemsize
