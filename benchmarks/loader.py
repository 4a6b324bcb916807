"""What a sample costs: our stream beside webdataset and bare loops over the same bytes.

Local files, an S3 server on loopback with a cold cache, video decode, and memory over many clips.
docs/benchmarks.md says what is counted and how.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bare_reads import BATCH
from costs import RSS_EVERY, Cost
from loaders import KEPT_BYTES
from sources import SEED, write_arrays, write_clips

from orchestrator.data.index import Bucket, Index
from tests.s3store import S3Store

ROOT = Path(__file__).parents[1]
CLIP: Bucket = (16, 256, 256)
SMALL_CLIP: Bucket = (8, 64, 64)
SMALL_CLIPS = 500  # that the memory's clips are drawn from
FLAT_AFTER = 1_000  # samples
MEMORY_BUDGET = 1.05  # most over least


@dataclass(frozen=True)
class Way:
    """One of those that are compared."""

    name: str
    script: str
    way: str
    budget: float | None = None  # of ours over this one's samples per processor second


@dataclass(frozen=True)
class Part:
    """Ways that read the same bytes; the first of them is ours."""

    name: str
    unit: str
    ways: tuple[Way, ...]


LOCAL = Part(
    "local",
    "sample",
    (
        Way("rushes", "loaders", "rushes"),
        Way("webdataset", "loaders", "webdataset", budget=3.0),
        Way("preadv, stacked", "bare_reads", "stacked"),
        Way("preadv, hashed, stacked", "bare_reads", "hashed", budget=0.9),
        Way("preadv in place", "bare_reads", "in place"),
    ),
)
S3 = Part(
    "s3",
    "sample",
    (
        Way("rushes, cold cache", "loaders", "rushes"),
        Way("webdataset, boto3", "loaders", "webdataset", budget=3.0),
        Way("webdataset, pipe:curl", "loaders", "webdataset, curl"),
        Way("get_object, stacked", "bare_reads", "objects"),
    ),
)
DECODE = Part(
    "decode",
    "clip",
    (
        Way("rushes", "loaders", "rushes clips"),
        Way("PyAV", "bare_reads", "clips", budget=0.95),
    ),
)
MEMORY = Part("memory", "clip", (Way("rushes", "loaders", "rushes clips, some kept"),))
PARTS = {part.name: part for part in (LOCAL, S3, DECODE, MEMORY)}


@dataclass
class Result:
    """Rounds of a part, by way."""

    part: str
    rounds: dict[str, list[Cost]] = field(default_factory=dict[str, list[Cost]])

    def ratios(self, way: Way) -> list[float]:
        """Samples per processor second, ours over another's, round by round."""
        ours, theirs = self.rounds[PARTS[self.part].ways[0].name], self.rounds[way.name]
        return [their.cpu_s / our.cpu_s for our, their in zip(ours, theirs, strict=True)]

    def spread(self) -> float:
        """Most memory over least, behind the first samples."""
        after = [
            one
            for cost in self.rounds["rushes"]
            for one in cost.rss_bytes[FLAT_AFTER // RSS_EVERY - 1 :]
        ]
        return max(after) / min(after)

    def fails(self) -> list[str]:
        """What misses its budget."""
        if self.part == MEMORY.name:
            return [self.part] if self.spread() > MEMORY_BUDGET else []
        return [
            f"{self.part}: {way.name}"
            for way in PARTS[self.part].ways
            if way.budget is not None and statistics.median(self.ratios(way)) < way.budget
        ]


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


def table(results: Sequence[Result]) -> str:
    """A Markdown table, a row per way, and one for the memory."""
    lines = [
        "| part | way | processor time | lowest to highest | per processor second | wall "
        "| ours / theirs | lowest to highest | at least |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        for way in PARTS[result.part].ways:
            costs = result.rounds[way.name]
            cpu_us = [1e6 * one.cpu_s / one.samples for one in costs]
            median_us = statistics.median(cpu_us)
            lines.append(
                f"| {result.part} | {way.name} | {median_us:.0f} us/{PARTS[result.part].unit} "
                f"| {min(cpu_us):.0f} to {max(cpu_us):.0f} us | {1e6 / median_us:.0f} "
                f"| {statistics.median(one.wall_s for one in costs):.2f} s "
                f"| {_compared(result, way)} |"
            )
    for result in results:
        if result.part == MEMORY.name:
            lines += ["", _flat(result)]
    return "\n".join(lines)


def _compared(result: Result, way: Way) -> str:
    if way is PARTS[result.part].ways[0]:
        return "- | - | -"
    ratios = result.ratios(way)
    median = statistics.median(ratios)
    verdict = "no bound"
    if way.budget is not None:
        verdict = f"{way.budget}: {'pass' if median >= way.budget else 'fail'}"
    return f"{median:.2f} | {min(ratios):.2f} to {max(ratios):.2f} | {verdict}"


def _flat(result: Result) -> str:
    (cost,) = result.rounds["rushes"]
    after = cost.rss_bytes[FLAT_AFTER // RSS_EVERY - 1 :]
    verdict = "pass" if result.spread() <= MEMORY_BUDGET else "fail"
    return (
        f"memory: {cost.samples:,} clips decoded, {KEPT_BYTES / 1e6:.0f} MB of them kept; from "
        f"clip {FLAT_AFTER:,} on {min(after) / 2**20:.1f} to {max(after) / 2**20:.1f} MiB "
        f"resident, most over least {result.spread():.3f}, at most {MEMORY_BUDGET}: {verdict}"
    )


def main() -> int:
    """Measures and prints; exit code 1 if a budget is missed."""
    parser = argparse.ArgumentParser(description="what a sample costs, ours beside others")
    parser.add_argument("--part", choices=list(PARTS), action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2_000, help="of arrays; a multiple of 8")
    parser.add_argument("--clips", type=int, default=100, help="that are decoded each round")
    parser.add_argument("--memory-clips", type=int, default=11_000)
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    args = parser.parse_args()
    if args.samples % BATCH or args.memory_clips < FLAT_AFTER + RSS_EVERY:
        parser.error("wanted --samples in multiples of 8 and --memory-clips from 1,100 on")
    parts = args.part or list(PARTS)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="rushes-loader-") as folder:
        scratch = Path(folder)
        if "local" in parts:
            index = write_arrays(str(scratch / "arrays"), samples=args.samples)
            results.append(
                measure(LOCAL, index, samples=args.samples, rounds=args.rounds, scratch=scratch)
            )
        if "s3" in parts:
            with S3Store(scratch / "s3") as server:
                os.environ.update(server.environment())
                index = write_arrays(f"s3://{server.bucket}/arrays", samples=args.samples)
                results.append(
                    measure(S3, index, samples=args.samples, rounds=args.rounds, scratch=scratch)
                )
        if "decode" in parts:
            index = write_clips(str(scratch / "clips"), clips=args.clips, bucket=CLIP)
            results.append(
                measure(DECODE, index, samples=args.clips, rounds=args.rounds, scratch=scratch)
            )
        if "memory" in parts:
            small = str(scratch / "small")
            index = write_clips(small, clips=SMALL_CLIPS, bucket=SMALL_CLIP)
            results.append(
                measure(MEMORY, index, samples=args.memory_clips, rounds=1, scratch=scratch)
            )
    print(f"{platform.machine()}, {os.cpu_count()} cores, {' '.join(sys.argv)}\n")
    print(table(results))
    if args.out is not None:
        about = {"machine": platform.platform(), "results": [asdict(one) for one in results]}
        args.out.write_text(json.dumps(about, indent=1) + "\n")
    return int(any(one.fails() for one in results))


if __name__ == "__main__":
    raise SystemExit(main())
