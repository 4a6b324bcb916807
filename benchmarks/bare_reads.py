"""Bare loops over the places that loader.py has listed, in a process that imports little else.

Run as ``python benchmarks/bare_reads.py JOB.json COST.json``. A place is a file or an object and
where in it the members of a sample begin and end, in bytes.
"""

import io
import os
import sys
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
import xxhash
from costs import Epoch, measure, read_job, write_cost

BATCH = 8
LATENT, TEXT = (16, 8, 32, 32), (32, 512)  # float16: 256 KiB and 32 KiB
HEADER = 128  # bytes of an .npy file before such an array


def stacked(job: dict[str, Any], *, check: Callable[[memoryview], object]) -> Epoch:
    """One ``preadv`` a sample, both arrays stacked over a batch."""
    files = [os.open(path, os.O_RDONLY) for path in job["files"]]
    places = job["places"]

    def batches() -> Iterator[int]:
        for first in range(0, len(places), BATCH):
            latents, texts = [], []
            for file, latent, text in places[first : first + BATCH]:
                data = np.empty(text[1] - latent[0], dtype=np.uint8)
                os.preadv(files[file], [data], latent[0])
                view = memoryview(data)
                for (start, end), shape, arrays in ((latent, LATENT, latents), (text, TEXT, texts)):
                    member = view[start - latent[0] : end - latent[0]]
                    check(member)
                    arrays.append(np.frombuffer(member, np.float16, offset=HEADER).reshape(shape))
            np.stack(latents)
            np.stack(texts)
            yield len(latents)

    return batches


def in_place(job: dict[str, Any]) -> Epoch:
    """One ``preadv`` a sample, straight into the arrays of a batch, which are used again."""
    files = [os.open(path, os.O_RDONLY) for path in job["files"]]
    places = job["places"]
    latents = np.empty((BATCH, 2 * prod(LATENT)), dtype=np.uint8)
    texts = np.empty((BATCH, 2 * prod(TEXT)), dtype=np.uint8)
    between = bytearray(2**16)

    def batches() -> Iterator[int]:
        for first in range(0, len(places), BATCH):
            some = places[first : first + BATCH]
            for slot, (file, latent, text) in enumerate(some):
                gap = memoryview(between)[: text[0] - latent[1] + HEADER]
                head = memoryview(between)[:HEADER]
                os.preadv(files[file], [head, latents[slot], gap, texts[slot]], latent[0])
            yield len(some)

    return batches


def objects(job: dict[str, Any]) -> Epoch:
    """Whole shards by boto3's ``get_object``, both arrays stacked over a batch."""
    import boto3  # the others do without

    s3 = boto3.client("s3")
    shards: dict[int, list[Any]] = {}
    for file, latent, text in job["places"]:
        shards.setdefault(file, []).append((latent[0] + HEADER, text[0] + HEADER))

    def batches() -> Iterator[int]:
        for file, places in shards.items():
            bucket, _, key = job["files"][file].removeprefix("s3://").partition("/")
            data = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            for first in range(0, len(places), BATCH):
                some = places[first : first + BATCH]
                for member, shape in enumerate((LATENT, TEXT)):
                    np.stack(
                        [
                            np.frombuffer(data, np.float16, prod(shape), one[member]).reshape(shape)
                            for one in some
                        ]
                    )
                yield len(some)

    return batches


def clips(job: dict[str, Any]) -> Epoch:
    """``pread``, open by PyAV, decode by one thread, stack; clip by clip."""
    import av  # the others do without

    files = [os.open(path, os.O_RDONLY) for path in job["files"]]

    def one_by_one() -> Iterator[int]:
        for file, (start, end) in job["places"]:
            data = os.pread(files[file], end - start, start)
            with av.open(io.BytesIO(data)) as container:
                stream = container.streams.video[0]
                stream.codec_context.thread_count = 1
                np.stack([one.to_ndarray(format="rgb24") for one in container.decode(stream)])
            yield 1

    return one_by_one


def main() -> int:
    """Measures one way."""
    job = read_job(sys.argv)
    ways: dict[str, Callable[[], Epoch]] = {
        "stacked": lambda: stacked(job, check=lambda _: None),
        "hashed": lambda: stacked(job, check=xxhash.xxh64_intdigest),
        "in place": lambda: in_place(job),
        "objects": lambda: objects(job),
        "clips": lambda: clips(job),
    }
    write_cost(sys.argv, measure(ways[job["way"]], samples=len(job["places"]), is_cold=job["cold"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
