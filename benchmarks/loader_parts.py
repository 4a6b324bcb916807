"""What loader.py compares, what it asks of each part, and how that is told."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from costs import RSS_EVERY, Cost
from loaders import KEPT_BYTES

FLAT_AFTER = 1_000  # samples
MEMORY_BUDGET = 1.05  # most over least
WAIT_BUDGET = 0.01  # of the time behind the first batch


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
MEMORY = Part("memory", "clip", (Way("rushes", "loaders", "rushes clips, ahead"),))
WAIT = Part("wait", "sample", (Way("rushes", "loaders", "rushes, ahead"),))
PARTS = {part.name: part for part in (LOCAL, S3, DECODE, MEMORY, WAIT)}


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

    def waiting(self) -> list[float]:
        """Which share of the time behind the first batch nothing was there to work on, by round."""
        return [
            sum(cost.waits_s[1:]) / (cost.wall_s - cost.waits_s[0])
            for cost in self.rounds["rushes"]
        ]

    def fails(self) -> list[str]:
        """What misses its budget."""
        if self.part == MEMORY.name:
            return [self.part] if self.spread() > MEMORY_BUDGET else []
        if self.part == WAIT.name:
            return [self.part] if statistics.median(self.waiting()) >= WAIT_BUDGET else []
        return [
            f"{self.part}: {way.name}"
            for way in PARTS[self.part].ways
            if way.budget is not None and statistics.median(self.ratios(way)) < way.budget
        ]


def table(results: Sequence[Result]) -> str:
    """A Markdown table, a row per way, and a line each for memory and waiting."""
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
        if result.part == WAIT.name:
            lines += ["", _waited(result)]
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
        f"memory: {cost.samples:,} clips, frames of {KEPT_BYTES / 1e6:.0f} MB kept; from "
        f"clip {FLAT_AFTER:,} on {min(after) / 2**20:.1f} to {max(after) / 2**20:.1f} MiB "
        f"resident, most over least {result.spread():.3f}, at most {MEMORY_BUDGET}: {verdict}"
    )


def _waited(result: Result) -> str:
    costs, shares = result.rounds["rushes"], result.waiting()
    firsts_s = [cost.waits_s[0] for cost in costs]
    longest_s = max(wait_s for cost in costs for wait_s in cost.waits_s[1:])
    return (
        f"wait: {len(costs[0].waits_s)} batches, the first there after "
        f"{statistics.median(firsts_s):.2f} s, at most {longest_s:.2f} s for any other; waiting "
        f"behind the first {100 * statistics.median(shares):.2f} % of the time "
        f"({100 * min(shares):.2f} to {100 * max(shares):.2f}), below {100 * WAIT_BUDGET:.0f} %: "
        f"{'fail' if result.fails() else 'pass'}"
    )
