"""What reading samples costs a process; it imports nothing that a bare loop would not."""

import gc
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

WARM_UP = 16  # batches that nobody counts

Epoch = Callable[[], Iterator[int]]  # reads all samples; gives how many at a time
RSS_EVERY = 100  # samples


@dataclass(frozen=True)
class Cost:
    """All samples once: processor and wall time; memory after every RSS_EVERY samples.

    ``waits_s`` has how long each batch was waited for, where somebody works on them.
    """

    samples: int
    cpu_s: float
    wall_s: float
    rss_bytes: list[int]
    waits_s: list[float] = field(default_factory=list[float])


def measure(prepare: Callable[[], Epoch], *, samples: int, is_cold: bool) -> Cost:
    """Reads a little, or all where that is not used again; then all samples once.

    Args:
        prepare: opens files and lists what will be read, which is not counted.
        samples: that are wanted in all.
        is_cold: what was opened for the warm-up is not used again. It reads to the end: what is
            fetched ahead of a little would go on beside the measured reading.
    """
    epoch = prepare()
    for _ in islice(epoch(), None if is_cold else WARM_UP):
        pass
    if is_cold:
        del epoch
        gc.collect()  # whatever it opened is closed
        epoch = prepare()
    reading = epoch()
    rss_bytes: list[int] = []
    done = 0
    cpu_s, wall_s = _cpu_s(), time.monotonic()
    for read in reading:
        before, done = done, done + read
        if done // RSS_EVERY > before // RSS_EVERY:
            rss_bytes.append(_rss_bytes())
    cpu_s, wall_s = _cpu_s() - cpu_s, time.monotonic() - wall_s
    if done != samples:
        raise SystemExit(f"{done} samples were read, wanted {samples}")
    return Cost(samples=done, cpu_s=cpu_s, wall_s=wall_s, rss_bytes=rss_bytes)


def attend(epoch: Epoch, *, samples: int, work_s: float) -> Cost:
    """All samples once, for somebody who works so long on every batch; nothing is read before."""
    waits_s: list[float] = []
    done = 0
    cpu_s, started_s = _cpu_s(), time.monotonic()
    asked_s = started_s
    for read in epoch():
        waits_s.append(time.monotonic() - asked_s)
        done += read
        time.sleep(work_s)
        asked_s = time.monotonic()
    cpu_s, wall_s = _cpu_s() - cpu_s, time.monotonic() - started_s
    if done != samples:
        raise SystemExit(f"{done} samples were read, wanted {samples}")
    return Cost(samples=done, cpu_s=cpu_s, wall_s=wall_s, rss_bytes=[], waits_s=waits_s)


def read_job(arguments: list[str]) -> dict[str, Any]:
    """What the parent asks for: the first argument is its file."""
    return json.loads(Path(arguments[1]).read_text())


def write_cost(arguments: list[str], cost: Cost) -> None:
    """Answers: the second argument is the file."""
    Path(arguments[2]).write_text(json.dumps(asdict(cost)))


def _cpu_s() -> float:
    """Of all threads of this process, and of children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
