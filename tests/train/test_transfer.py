"""Batches on their way from a host's memory to a device."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.data.blocks import Blocks, allocate, side_by_side
from orchestrator.data.decode import npy_bytes
from orchestrator.data.index import Index, write_index
from orchestrator.data.pool import Part
from orchestrator.data.shards import NewSample, write_shard
from orchestrator.data.stream import Stream
from orchestrator.storage.store import open_store
from orchestrator.train.transfer import (
    allocate_for,
    on_device,
    record_on_device,
    stacked_on_device,
)

CPU = torch.device("cpu")
CLIPS = 6

with_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


class OfTensors:
    """Memory as pinned memory is: of tensors, seen as arrays."""

    def __init__(self) -> None:
        self.taken: list[Tensor] = []

    def __call__(self, size: int) -> NDArray[np.uint8]:
        self.taken.append(torch.empty(size, dtype=torch.uint8))
        return self.taken[-1].numpy()

    def holds(self, x: Tensor) -> bool:
        return any(
            one.data_ptr() <= x.data_ptr() < one.data_ptr() + one.numel() for one in self.taken
        )


@dataclass(frozen=True)
class Pair:
    one: Tensor
    other: Tensor


def some(count: int, *, dtype: type = np.float16) -> list[NDArray[np.generic]]:
    return [np.arange(12, dtype=dtype).reshape(3, 4) + number for number in range(count)]


def placed(arrays: Sequence[NDArray[np.generic]], blocks: Blocks) -> list[NDArray[np.generic]]:
    """The arrays side by side in a block."""
    block = blocks.take(sum(array.nbytes for array in arrays))
    together = block.view(arrays[0].dtype).reshape(len(arrays), *arrays[0].shape)
    together[:] = arrays
    return list(together)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_stacked_arrays_are_one_tensor_of_their_type(dtype: type) -> None:
    arrays = some(3, dtype=dtype)
    x = stacked_on_device(arrays, device=CPU)
    assert x.numpy().dtype == dtype
    np.testing.assert_array_equal(x.numpy(), np.stack(arrays))
    strided = [array[:, ::2] for array in arrays]
    np.testing.assert_array_equal(stacked_on_device(strided, device=CPU).numpy(), np.stack(strided))


def test_arrays_side_by_side_in_a_tensors_memory_are_not_copied() -> None:
    memory = OfTensors()
    arrays = placed(some(3), Blocks(allocate=memory))
    x = stacked_on_device(arrays, device=CPU)
    assert memory.holds(x)
    np.testing.assert_array_equal(x.numpy(), np.stack(some(3)))


def test_memory_of_a_tensor_is_used_again_once_no_array_lies_in_it() -> None:
    memory = OfTensors()
    blocks = Blocks(allocate=memory)
    arrays = placed(some(3), blocks)
    del arrays[:2]
    blocks.take(72)
    assert len(memory.taken) == 2
    arrays.clear()
    blocks.take(72)
    assert len(memory.taken) == 2


def test_memory_that_cannot_be_written_is_copied() -> None:
    array = np.frombuffer(bytes(range(12)), dtype=np.uint8).reshape(3, 4)
    assert side_by_side([array]) is None
    assert stacked_on_device([array], device=CPU).tolist() == [array.tolist()]


def test_the_threads_that_read_ahead_read_into_the_given_memory(tmp_path: Path) -> None:
    latents = some(CLIPS)
    samples = [
        NewSample(
            key=f"clip-{row}",
            members={"latent.npy": npy_bytes(latent)},
            bucket=(9, 32, 32),
            fps=8.0,
            source="latents",
            captions=(),
            labels={},
        )
        for row, latent in enumerate(latents)
    ]
    store = open_store(str(tmp_path))
    write_index(store, [write_shard(store, "shard-000000.tar", samples)], origin={})
    memory = OfTensors()
    stream = Stream(
        [Part(name="", index=Index.open(str(tmp_path)), weight=1.0)],
        seed=0,
        batch=3,
        rank=0,
        world_size=1,
        workers=2,
        allocate=memory,
    )
    stream.next()  # what the header says is learned from the first clips
    for _ in range(8):
        batch = stream.next()
        x = stacked_on_device([one["latent"] for one in batch.samples], device=CPU)
        wanted = [latents[int(key.removeprefix("clip-"))] for key in batch.keys]
        np.testing.assert_array_equal(x.numpy(), np.stack(wanted))
    assert memory.holds(x)
    stream.close()


def test_a_record_of_tensors_moves_as_one() -> None:
    pair = Pair(one=torch.ones(2), other=torch.zeros(3, dtype=torch.bool))
    moved = record_on_device(pair, device=torch.device("meta"))
    assert (moved.one.device.type, moved.other.device.type) == ("meta", "meta")
    assert (moved.one.shape, moved.other.dtype) == ((2,), torch.bool)
    assert record_on_device(pair, device=CPU).one is pair.one


def test_the_cpu_is_sent_what_lies_in_ordinary_memory() -> None:
    assert allocate_for(CPU) is allocate


@pytest.mark.gpu
@with_a_gpu
def test_nothing_waits_for_the_device() -> None:
    """Torch raises where a call would."""
    device = torch.device("cuda", 0)
    blocks = Blocks(allocate=allocate_for(device))
    arrays = placed(some(3), blocks)
    on_device(torch.ones(2), device=device)  # begins with the device
    torch.cuda.set_sync_debug_mode("error")
    try:
        together = stacked_on_device(arrays, device=device)
        apart = stacked_on_device(some(3), device=device)
        one = on_device(torch.arange(5), device=device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    np.testing.assert_array_equal(together.cpu().numpy(), np.stack(some(3)))
    np.testing.assert_array_equal(apart.cpu().numpy(), np.stack(some(3)))
    assert one.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.gpu
@with_a_gpu
def test_memory_is_not_used_again_before_the_device_has_fetched_it() -> None:
    device = torch.device("cuda", 0)
    blocks = Blocks(allocate=allocate_for(device))
    torch.cuda._sleep(10**9)  # what the device has to do before
    sent: list[Tensor] = []
    for number in range(20):
        arrays = placed([array + number for array in some(3)], blocks)
        sent.append(stacked_on_device(arrays, device=device))
        del arrays
    for number, x in enumerate(sent):
        wanted = np.stack([array + number for array in some(3)])
        np.testing.assert_array_equal(x.cpu().numpy(), wanted)
