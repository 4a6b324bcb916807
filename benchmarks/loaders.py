"""Rushes and webdataset reading a source for loader.py, a way in a process.

Run as ``python benchmarks/loaders.py JOB.json COST.json``.
"""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import webdataset
from bare_reads import BATCH
from costs import Epoch, attend, measure, read_job, write_cost
from sources import SEED
from webdataset.gopen import gopen_schemes

from orchestrator.data.batch import StepBatch
from orchestrator.data.blocks import stacked
from orchestrator.data.index import Index
from orchestrator.data.pool import alone
from orchestrator.data.reader import Reader
from orchestrator.data.stream import Stream

SHUFFLED = 1000  # samples in webdataset's buffer, as its documentation has it
KEPT_BYTES = 5_000_000  # of the memory part: a tenth of its clips
CACHE_BYTES = 10**9


def batches(uri: str, *, samples: int, cache: Path) -> Epoch:
    """The stream of a training stage: shuffled, every hash checked, nothing kept in memory."""
    stream = _stream(uri, cache=cache, cache_bytes=CACHE_BYTES)

    def read() -> Iterator[int]:
        for step in range(samples // BATCH):
            yield _arrays(stream.read_step(step))

    return read


def batches_ahead(
    uri: str, *, samples: int, cache: Path, cache_bytes: int = CACHE_BYTES, memory_bytes: int = 0
) -> Epoch:
    """The same, read ahead by the stream's thread, with so many bytes of cache and memory."""
    stream = _stream(uri, cache=cache, cache_bytes=cache_bytes, memory_bytes=memory_bytes)

    def read() -> Iterator[int]:
        for _ in range(samples // BATCH):
            yield _arrays(stream.next())

    return read


def _stream(uri: str, *, cache: Path, cache_bytes: int, memory_bytes: int = 0) -> Stream:
    return Stream(
        alone(Index.open(uri)),
        seed=SEED,
        batch=BATCH,
        rank=0,
        world_size=1,
        cache_dir=str(cache),
        cache_bytes=cache_bytes,
        memory_bytes=memory_bytes,
    )


def _arrays(batch: StepBatch) -> int:
    for name in batch.samples[0]:
        stacked([sample[name] for sample in batch.samples])
    return len(batch.keys)


def clips(uri: str, *, rows: Sequence[int], cache: Path) -> Epoch:
    """Clips as frames, one by one."""
    reader = Reader(Index.open(uri), cache_dir=str(cache), cache_bytes=CACHE_BYTES, memory_bytes=0)
    return lambda: (len(reader.read_all([row])) for row in rows)


def webdataset_batches(urls: Sequence[str]) -> Epoch:
    """Its shuffled, decoded and batched pipeline."""
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=len(urls), seed=SEED)
        .shuffle(SHUFFLED)
        .decode()
        .to_tuple("latent.npy", "text.npy", "json")
        .batched(BATCH)
    )
    return lambda: (len(latents) for latents, _, _ in dataset)


def curl_urls(urls: Sequence[str]) -> list[str]:
    """Addresses of objects for webdataset's ``pipe:curl``, signed."""
    s3 = boto3.client("s3")
    places = [urlsplit(url) for url in urls]
    signed = [
        s3.generate_presigned_url(
            "get_object", Params={"Bucket": one.netloc, "Key": one.path.strip("/")}
        )
        for one in places
    ]
    return [f"pipe:curl -sfL '{one}'" for one in signed]


def _open_s3(url: str, mode: str = "rb", bufsize: int = 8192, **_: Any) -> Any:
    """An opener for webdataset, which has none of its own for s3: the body as it comes."""
    place = urlsplit(url)
    return boto3.client("s3").get_object(Bucket=place.netloc, Key=place.path.strip("/"))["Body"]


def main() -> int:
    """Measures one way."""
    job = read_job(sys.argv)
    gopen_schemes["s3"] = _open_s3
    uri, rows = job["uri"], job["rows"]

    def cache() -> Path:
        """An empty one; the memory that held copies of a warm-up is free, as the others' own is."""
        folder = Path(job["scratch"]) / "cache"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    ways: dict[str, Callable[[], Epoch]] = {
        "rushes": lambda: batches(uri, samples=len(rows), cache=cache()),
        "rushes, ahead": lambda: batches_ahead(
            uri, samples=len(rows), cache=cache(), cache_bytes=job["cache_bytes"]
        ),
        "rushes clips": lambda: clips(uri, rows=rows, cache=cache()),
        "rushes clips, ahead": lambda: batches_ahead(
            uri, samples=len(rows), cache=cache(), memory_bytes=KEPT_BYTES
        ),
        "webdataset": lambda: webdataset_batches(job["files"]),
        "webdataset, curl": lambda: webdataset_batches(curl_urls(job["files"])),
    }
    prepare = ways[job["way"]]
    if job["work_s"]:
        cost = attend(prepare(), samples=len(rows), work_s=job["work_s"])
    else:
        cost = measure(prepare, samples=len(rows), is_cold=job["cold"])
    write_cost(sys.argv, cost)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
