"""How `rushes prepare` scales with Ray workers, and whether their memory stays flat.

The same short films are prepared with one worker and with two, on the same Ray, in turns.
docs/benchmarks.md says what is counted and how.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import psutil

from orchestrator.data.prepare.fates import Report
from orchestrator.data.prepare.listing import list_source
from orchestrator.data.prepare.prepare import prepare
from orchestrator.launch.ray_session import Starting
from orchestrator.recipe.prepare import Prepare, load_prepare
from orchestrator.storage.store import open_store

HEIGHT, WIDTH, FPS = 160, 288, 24
LEAST_S, MOST_S = 2.0, 10.0
SPEEDUP = 1.7
FLAT = 1.1  # of what the largest worker holds: its last third over its middle one
EVERY_S = 2.0


@dataclass(frozen=True)
class Pass:
    """One preparation: how long it took, and what the largest worker held meanwhile."""

    workers: int
    seconds: float
    kept: int
    worker_bytes: list[int]

    @property
    def growth(self) -> float:
        """Of the largest worker: median of the last third over that of the middle one."""
        third = len(self.worker_bytes) // 3
        middle, last = self.worker_bytes[third : 2 * third], self.worker_bytes[2 * third :]
        return statistics.median(last) / statistics.median(middle)


def write_films(folder: Path, *, count: int) -> None:
    """Films of 2 to 10 s, each other than the others, written by two processes."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(write_film, folder, number) for number in range(count)]:
            done.result()


def write_film(folder: Path, number: int) -> None:
    """A textured ground over which a square moves; the length comes from the number."""
    random = np.random.Generator(np.random.Philox(key=number))
    ground = np.kron(random.integers(40, 200, (10, 18, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    with av.open(str(folder / f"{number:05d}.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.options = {"preset": "ultrafast"}
        stream.codec_context.thread_count = 1
        for frame in range(round(random.uniform(LEAST_S, MOST_S) * FPS)):
            picture = ground.copy()
            left = (3 * frame) % (WIDTH - 40)
            picture[60:100, left : left + 40] = 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@contextmanager
def watching_workers() -> Iterator[list[int]]:
    """Yields a list that gets the resident bytes of the largest Ray worker, every two seconds."""
    seen: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(EVERY_S):
            sizes: list[int] = []
            for child in psutil.Process().children(recursive=True):
                try:
                    if "ray::" in " ".join(child.cmdline()):
                        sizes.append(child.memory_info().rss)
                except psutil.Error:
                    continue
            seen.append(max(sizes, default=0))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


@contextmanager
def only(workers: int) -> Iterator[None]:
    """Leaves Ray as many CPUs as there are to be workers, so that both passes have a queue."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    spare = int(ray.cluster_resources()["CPU"]) - workers
    if spare < 0:
        raise SystemExit(f"{workers} workers: wanted as many CPUs, this machine has fewer")
    if not spare:
        yield
        return
    held = placement_group([{"CPU": spare}])
    ray.get(held.ready())
    try:
        yield
    finally:
        remove_placement_group(held)


def measure(raw: Path, out: Path, *, config: Prepare, workers: int) -> Pass:
    """Prepares the films into an empty place."""
    # Late: ray is imported in the thread that started it.
    from orchestrator.data.prepare.on_ray import OnRay

    executor = OnRay(look=lambda: None, private=True)
    with only(workers), watching_workers() as seen:
        began_s = time.monotonic()
        report: Report = prepare(
            open_store(str(out)),
            list_source(str(raw), target=str(out)),
            source=str(raw),
            config=config,
            executor=executor,
            on_progress=lambda *_: None,
        )
        seconds = time.monotonic() - began_s
    return Pass(workers=workers, seconds=seconds, kept=report.kept, worker_bytes=seen)


def main() -> int:
    """Measures, prints a table, returns 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    config = load_prepare(None, overrides=["dedup=null"])
    passes: list[Pass] = []
    with tempfile.TemporaryDirectory(prefix="rushes-prepare-") as folder:
        raw = Path(folder) / "raw"
        raw.mkdir()
        write_films(raw, count=args.clips)
        # Only now: processes of multiprocessing now and then fail beside a Ray that starts.
        starting = Starting(None)
        try:
            starting.result()
            few = Path(folder) / "few"
            few.mkdir()
            for path in sorted(raw.iterdir())[:16]:
                (few / path.name).hardlink_to(path)
            measure(few, Path(folder) / "warm", config=config, workers=2)  # processes are there
            for number in range(args.rounds):
                for workers in (1, 2):
                    out = Path(folder) / f"out-{number}-{workers}"
                    passes.append(measure(raw, out, config=config, workers=workers))
                    print_pass(passes[-1])
        finally:
            starting.close()
    return summed_up(passes, clips=args.clips, path=args.json)


def print_pass(one: Pass) -> None:
    """A line of the table."""
    print(
        f"| {one.workers} | {one.seconds:.1f} s | {one.kept} | "
        f"{max(one.worker_bytes) / 2**20:.0f} MiB | {one.growth:.2f}x |",
        flush=True,
    )


def summed_up(passes: list[Pass], *, clips: int, path: Path | None) -> int:
    """Prints the ratio; returns 1 if it or the growth of a worker misses its bound."""
    seconds = {
        workers: statistics.median(one.seconds for one in passes if one.workers == workers)
        for workers in (1, 2)
    }
    speedup = seconds[1] / seconds[2]
    growth = max(one.growth for one in passes)
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(
        f"{clips} films, 2 workers over 1: {speedup:.2f}x, wanted {SPEEDUP}x; largest growth of a "
        f"worker {growth:.2f}x, wanted at most {FLAT}x; {platform.processor() or 'CPU'}, "
        f"{os.cpu_count()} cores, load {load}"
    )
    if path is not None:
        path.write_text(json.dumps([asdict(one) for one in passes], indent=1))
    return int(speedup < SPEEDUP or growth > FLAT)


if __name__ == "__main__":
    sys.exit(main())
