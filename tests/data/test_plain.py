"""Samples of .npy files alone: read into place, side by side, still checked, by any thread."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from uuid import uuid4

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.data.bad import BadSampleError
from orchestrator.data.blocks import Blocks, stacked
from orchestrator.data.decode import npy_bytes
from orchestrator.data.index import Bucket, Index, write_index
from orchestrator.data.reader import Reader
from orchestrator.data.shards import NewSample, write_shard
from orchestrator.storage.store import open_store
from tests.data.clips import flip_bit_in_place, frames_of, write_source

SHAPE: Bucket = (9, 32, 32)
ROWS = 6
THREADS = 4
READS = 200


def latent_of(row: int) -> NDArray[np.float16]:
    return np.random.Generator(np.random.Philox(key=row)).normal(size=(4, 3, 8)).astype(np.float16)


def text_of(row: int) -> NDArray[np.float32]:
    return np.full((2 + row % 2, 5), row, dtype=np.float32)  # not all of one length


def written(uri: str, members: Mapping[int, Mapping[str, bytes]]) -> Index:
    store = open_store(uri)
    samples = [
        NewSample(
            key=f"clip-{row:03d}",
            members=found,
            bucket=SHAPE,
            fps=8.0,
            source="latents",
            captions=(),
            labels={},
        )
        for row, found in members.items()
    ]
    write_index(store, [write_shard(store, "shard-000000.tar", samples)], origin={})
    return Index.open(uri)


def latents(uri: str) -> Index:
    return written(
        uri,
        {
            row: {
                "latent.npy": npy_bytes(latent_of(row)),
                "json": b"{}",
                "text.npy": npy_bytes(text_of(row)),
            }
            for row in range(ROWS)
        },
    )


def open_reader(index: Index, folder: Path) -> Reader:
    return Reader(index, cache_dir=str(folder), cache_bytes=10**9, memory_bytes=0)


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_arrays_of_a_batch_lie_side_by_side(tmp_path: Path, place: str) -> None:
    uri = str(tmp_path / "clips") if place == "folder" else f"memory://{uuid4().hex}"
    reader = open_reader(latents(uri), tmp_path / "cache")
    for rows in ((0, 1), (5, 2, 4), (3, 3, 0), tuple(range(ROWS))):
        read = reader.read_all(rows)
        assert [sample.key for sample, _ in read] == [f"clip-{row:03d}" for row in rows]
        for row, (_, arrays) in zip(rows, read, strict=True):
            assert set(arrays) == {"latent", "text"}
            np.testing.assert_array_equal(arrays["latent"], latent_of(row), strict=True)
            np.testing.assert_array_equal(arrays["text"], text_of(row), strict=True)
        batch = stacked([arrays["latent"] for _, arrays in read])
        np.testing.assert_array_equal(batch, np.stack([latent_of(row) for row in rows]))
    assert np.shares_memory(batch, read[0][1]["latent"])
    assert batch.flags.c_contiguous


def test_a_batch_stays_as_it_is_while_others_are_read(tmp_path: Path) -> None:
    reader = open_reader(latents(str(tmp_path)), tmp_path)
    held = [(row, reader.read_all((row, row - 1))[0][1]["latent"]) for row in range(1, ROWS)]
    for row, latent in held:
        np.testing.assert_array_equal(latent, latent_of(row))


def test_memory_of_a_batch_is_used_again() -> None:
    blocks = Blocks()
    first = blocks.take(1000)
    address = first.__array_interface__["data"][0]
    part = first[100:900].view(np.float32).reshape(2, 100)[1]
    del first
    assert blocks.take(1000).__array_interface__["data"][0] != address  # a part is still held
    del part
    assert blocks.take(900).__array_interface__["data"][0] == address


def test_stacked_copies_what_does_not_lie_side_by_side() -> None:
    block = Blocks().take(96).view(np.int32).reshape(4, 6)
    block[:] = np.arange(24).reshape(4, 6)
    assert np.shares_memory(stacked([block[1], block[2]]), block)
    for arrays in (
        [block[1], block[0]],
        [block[0], block[2]],
        [block[0][:2], block[1][:2]],
        [block[:, 0], block[:, 1]],
        [block[0].copy(), block[1]],
        [block[0], block[1].view(np.float32)],
    ):
        found = stacked(arrays)
        np.testing.assert_array_equal(found, np.stack(arrays))
        assert not np.shares_memory(found, block)
    with pytest.raises(ValueError, match="shape"):
        stacked([block[0], block[0, :2]])


def test_arrays_of_other_kinds_in_as_many_bytes_are_read_as_they_are(tmp_path: Path) -> None:
    kinds = [
        np.arange(24, dtype=np.int32).reshape(4, 6),
        np.arange(24, dtype=np.int32).reshape(6, 4),
        np.arange(24, dtype=np.float32).reshape(4, 6),
        np.asfortranarray(np.arange(24, dtype=np.int32).reshape(4, 6)),
    ]
    for first in range(len(kinds)):
        order = kinds[first:] + kinds[:first]
        members = {row: {"x.npy": npy_bytes(array)} for row, array in enumerate(order)}
        reader = open_reader(written(str(tmp_path / str(first)), members), tmp_path)
        for _ in range(2):  # the second time it is known what the first one was
            for array, (_, arrays) in zip(order, reader.read_all(range(4)), strict=True):
                np.testing.assert_array_equal(arrays["x"], array, strict=True)
                assert arrays["x"].flags.f_contiguous == array.flags.f_contiguous


def test_every_flipped_bit_of_a_known_kind_is_found(tmp_path: Path) -> None:
    index = latents(str(tmp_path / "clips"))
    path = tmp_path / "clips" / "shard-000000.tar"
    reader = open_reader(index, tmp_path)
    reader.read_all(range(ROWS))
    draw = Random(0)
    for _ in range(50):
        row = draw.randrange(ROWS)
        member = draw.choice([one for one in index.sample(row).members if one.ext != "json"])
        offset = member.offset + draw.randrange(member.size)
        flip_bit_in_place(path, offset=offset)
        with pytest.raises(BadSampleError, match=rf"clip-{row:03d}\.{member.ext} is damaged: xx"):
            reader.read_all((row, (row + 1) % ROWS))
        flip_bit_in_place(path, offset=offset)
        np.testing.assert_array_equal(reader.read(row)[1]["latent"], latent_of(row))


def test_file_that_is_cut_while_it_is_open_is_named(tmp_path: Path) -> None:
    index = latents(str(tmp_path / "clips"))
    path = tmp_path / "clips" / "shard-000000.tar"
    reader = open_reader(index, tmp_path)
    last = index.sample(ROWS - 1).members[0]
    for _ in range(2):
        reader.read_all(range(ROWS))  # the memory that is used again holds what is to be read
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(last.offset + 9)
    with pytest.raises(BadSampleError, match=r"clip-005\.latent\.npy is damaged: the file ends"):
        reader.read_all(range(ROWS))
    (tmp_path / "new").write_bytes(whole)
    (tmp_path / "new").replace(path)
    np.testing.assert_array_equal(reader.read(ROWS - 1)[1]["latent"], latent_of(ROWS - 1))


def test_member_that_is_no_npy_is_named(tmp_path: Path) -> None:
    index = written(str(tmp_path / "clips"), {0: {"latent.npy": b"no array at all"}})
    with pytest.raises(BadSampleError, match=r"000000\.tar: clip-000 cannot be decoded: not an n"):
        open_reader(index, tmp_path).read(0)


@pytest.mark.parametrize("memory_bytes", [0, 3 * 3 * 8 * 8 * 3])
def test_threads_read_what_one_would(tmp_path: Path, memory_bytes: int) -> None:
    shape: Bucket = (3, 8, 8)
    clips = write_source(f"memory://{uuid4().hex}", {shape: 10})
    decoding = Reader(
        clips, cache_dir=str(tmp_path / "cache"), cache_bytes=2_000, memory_bytes=memory_bytes
    )
    plain = open_reader(latents(str(tmp_path / "clips")), tmp_path)

    def read(thread: int) -> None:
        draw = Random(thread)
        for _ in range(READS):
            row, other = draw.randrange(10), draw.randrange(ROWS)
            np.testing.assert_array_equal(decoding.read(row)[1]["frames"], frames_of(row, shape))
            rows = (other, draw.randrange(ROWS), draw.randrange(ROWS))
            for one, (_, arrays) in zip(rows, plain.read_all(rows), strict=True):
                np.testing.assert_array_equal(arrays["latent"], latent_of(one))
                np.testing.assert_array_equal(arrays["text"], text_of(one))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(read, range(THREADS)))
