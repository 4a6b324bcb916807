"""What a user sees of a source: its buckets, its sums, its faults."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from orchestrator.data.index import Bucket, Index

_LINES = 20  # of a list, at most


def by_clips(index: Index) -> list[tuple[Bucket, list[int]]]:
    """Shapes and their rows, those with most clips first."""
    return sorted(index.buckets.items(), key=lambda item: (-len(item[1]), item[0]))


def bucket_table(index: Index) -> Table:
    """A row for every shape, the one with most clips first, and one for all."""
    table = Table(title=None)
    for name in ("frames", "height x width", "clips", "share", "hours"):
        table.add_column(name, justify="right")
    durations_s = index.durations_s
    buckets = by_clips(index)
    for (frames, height, width), rows in buckets:
        table.add_row(
            str(frames),
            f"{height} x {width}",
            f"{len(rows):,}",
            f"{len(rows) / len(index):.1%}",
            _hours(float(durations_s[rows].sum())),
        )
    if len(buckets) > 1:
        table.add_section()
        table.add_row("all", "", f"{len(index):,}", "", _hours(float(durations_s.sum())))
    return table


def sums(index: Index, *, shards_bytes: int) -> list[str]:
    """Clips, shards, size, length, captions and windows, a line each."""
    captioned = sorted((count, clips) for count, clips in index.wordings.items() if count)
    parts = ", ".join(f"{count} for {clips:,} clips" for count, clips in captioned) or "none"
    return [
        f"clips       {len(index):,} in {len(index.shards):,} shards, {shards_bytes:,} bytes",
        f"length      {_hours(float(index.durations_s.sum()))} hours",
        f"captions    {parts}",
        f"uncaptioned {index.uncaptioned:,}",
        *([f"windowed    {index.windowed:,}"] if index.windowed else []),
    ]


def print_lines(lines: Sequence[str], *, console: Console) -> None:
    """The first 20, and the number of the rest."""
    for line in lines[:_LINES]:
        say(line, console=console)
    if len(lines) > _LINES:
        say(f"and {len(lines) - _LINES:,} more", console=console)


def say(line: str, *, console: Console) -> None:
    """A line as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f}"
