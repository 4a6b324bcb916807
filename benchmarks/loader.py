"""What a sample costs: our stream beside webdataset and bare loops over the same bytes.

Local files, an S3 server on loopback with a cold cache, video decode, memory over many clips, and
waiting for an S3 server that answers late. docs/benchmarks.md says what is counted and how.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bare_reads import BATCH
from costs import RSS_EVERY, Cost
from loader_parts import DECODE, FLAT_AFTER, LOCAL, MEMORY, PARTS, S3, WAIT, Part, Result, table
from sources import SEED, write_arrays, write_clips, write_latents

from orchestrator.data.index import Bucket, Index
from tests.fault_proxy import Fault, fault_proxy
from tests.s3store import S3Store

ROOT = Path(__file__).parents[1]
CLIP: Bucket = (16, 256, 256)
SMALL_CLIP: Bucket = (8, 64, 64)
SMALL_CLIPS = 500  # that the memory's clips are drawn from
LATENTS = 2_000  # that those who wait take theirs from, again and again
LATENTS_PER_SHARD = 25
LATENT_CACHE_BYTES = 250_000_000  # two blocks of shards: most are fetched again in every epoch
WORK_S = 0.05  # that a batch is worked on


def measure(part: Part, index: Index, *, samples: int, rounds: int, scratch: Path) -> Result:
    """Every way a round, each in a process of its own; every second round the other way round."""
    draw = random.Random(SEED)
    rows: list[int] = []
    while len(rows) < samples:
        rows += draw.sample(range(len(index)), min(len(index), samples - len(rows)))
    numbers = {shard: number for number, shard in enumerate(index.shards)}
    places = [
        (
            numbers[sample.shard],
            *((one.offset, one.offset + one.size) for one in sample.members if one.ext != "json"),
        )
        for sample in map(index.sample, rows)
    ]
    prefix = "" if index.store.uri.startswith("s3:") else "file:"
    files = [f"{index.store.uri}/{shard}" for shard in index.shards]
    if prefix:
        _settle([Path(one) for one in files])
    result = Result(part.name)
    for number in range(rounds):
        for way in part.ways[:: -1 if number % 2 else 1]:
            job = {
                "way": way.way,
                "uri": index.store.uri,
                "rows": rows,
                "places": places,
                "files": files if way.script == "bare_reads" else [prefix + one for one in files],
                "scratch": str(scratch),
                "cold": part is S3,
                "work_s": WORK_S if part is WAIT else 0.0,
                "cache_bytes": LATENT_CACHE_BYTES,
            }
            cost = _run(way.script, job, scratch=scratch)
            result.rounds.setdefault(way.name, []).append(cost)
            cpu_us = 1e6 * cost.cpu_s / cost.samples
            print(f"{part.name} {number}: {way.name} {cpu_us:.0f} us", file=sys.stderr, flush=True)
    return result


def _settle(files: Sequence[Path]) -> None:
    """All of the files is in the system's memory; they were synced when they were written."""
    for file in files:
        file.read_bytes()


def _run(script: str, job: Mapping[str, Any], *, scratch: Path) -> Cost:
    job_path, cost_path = scratch / "job.json", scratch / "cost.json"
    job_path.write_text(json.dumps(job))
    subprocess.run(
        [sys.executable, str(ROOT / f"benchmarks/{script}.py"), str(job_path), str(cost_path)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return Cost(**json.loads(cost_path.read_text()))


@contextmanager
def _s3(folder: Path) -> Iterator[S3Store]:
    """A server that boto3 finds."""
    with S3Store(folder) as server:
        os.environ.update(server.environment())
        yield server


def local(args: argparse.Namespace, *, scratch: Path) -> Result:
    """Arrays in files of this machine."""
    index = write_arrays(str(scratch / "arrays"), samples=args.samples)
    return measure(LOCAL, index, samples=args.samples, rounds=args.rounds, scratch=scratch)


def s3(args: argparse.Namespace, *, scratch: Path) -> Result:
    """The same in objects."""
    with _s3(scratch / "s3") as server:
        index = write_arrays(f"s3://{server.bucket}/arrays", samples=args.samples)
        return measure(S3, index, samples=args.samples, rounds=args.rounds, scratch=scratch)


def decode(args: argparse.Namespace, *, scratch: Path) -> Result:
    """Videos as frames."""
    index = write_clips(str(scratch / "clips"), clips=args.clips, bucket=CLIP)
    return measure(DECODE, index, samples=args.clips, rounds=args.rounds, scratch=scratch)


def memory(args: argparse.Namespace, *, scratch: Path) -> Result:
    """Many small videos."""
    index = write_clips(str(scratch / "small"), clips=SMALL_CLIPS, bucket=SMALL_CLIP)
    return measure(MEMORY, index, samples=args.memory_clips, rounds=1, scratch=scratch)


def wait(args: argparse.Namespace, *, scratch: Path) -> Result:
    """Latents in objects of a server that takes its time with every answer."""
    with _s3(scratch / "far") as server, fault_proxy(server.port) as proxy:
        uri = f"s3://{server.bucket}/latents"
        write_latents(uri, samples=LATENTS, per_shard=LATENTS_PER_SHARD)
        proxy.set(Fault("late"))
        os.environ.update(server.environment(url=proxy.url))
        index = Index.open(uri)
        return measure(WAIT, index, samples=args.wait_samples, rounds=1, scratch=scratch)


def main() -> int:
    """Measures and prints; exit code 1 if a budget is missed."""
    parser = argparse.ArgumentParser(description="what a sample costs, ours beside others")
    parser.add_argument("--part", choices=list(PARTS), action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2_000, help="of arrays; a multiple of 8")
    parser.add_argument("--clips", type=int, default=100, help="that are decoded each round")
    parser.add_argument("--memory-clips", type=int, default=12_000, help="a multiple of 8")
    parser.add_argument("--wait-samples", type=int, default=4_800, help="a multiple of 8")
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    args = parser.parse_args()
    if any(one % BATCH for one in (args.samples, args.wait_samples, args.memory_clips)):
        parser.error("wanted --samples, --wait-samples and --memory-clips in multiples of 8")
    if args.memory_clips < FLAT_AFTER + RSS_EVERY:
        parser.error("wanted --memory-clips from 1,100 on")
    ways: dict[str, Callable[..., Result]] = {
        LOCAL.name: local,
        S3.name: s3,
        DECODE.name: decode,
        MEMORY.name: memory,
        WAIT.name: wait,
    }
    results: list[Result] = []
    for part in args.part or ways:
        with tempfile.TemporaryDirectory(prefix="rushes-loader-") as folder:
            results.append(ways[part](args, scratch=Path(folder)))
    print(f"{platform.machine()}, {os.cpu_count()} cores, {' '.join(sys.argv)}\n")
    print(table(results))
    if args.out is not None:
        about = {"machine": platform.platform(), "results": [asdict(one) for one in results]}
        args.out.write_text(json.dumps(about, indent=1) + "\n")
    return int(any(one.fails() for one in results))


if __name__ == "__main__":
    raise SystemExit(main())
