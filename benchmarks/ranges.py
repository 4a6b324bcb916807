"""What one short range of an S3 object costs the processor: the store, obstore bare, boto3.

docs/benchmarks.md says what is counted and how.
"""

import argparse
import os
import platform
import random
import re
import resource
import socket
import statistics
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

import obstore
from obstore.store import S3Store

from orchestrator.storage.s3_client import READ_S, client, environment
from orchestrator.storage.store import open_store

OBJECT_BYTES = 16 * 2**20
LEAST_RATIO = 4.0  # of boto3's cost to ours
_SPAN = re.compile(rb"range: bytes=(\d+)-(\d+)", re.IGNORECASE)


def serve(port: Connection) -> None:
    """A server that knows one object and looks at nothing but the range."""
    data = memoryview(bytes(OBJECT_BYTES))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port.send(listener.getsockname()[1])
        while True:
            taken, _ = listener.accept()
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_answer, args=(taken, data), daemon=True).start()


def _answer(taken: socket.socket, data: memoryview) -> None:
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            chunk = taken.recv(65536)
            if not chunk:
                return
            received += chunk
        head, _, received = received.partition(b"\r\n\r\n")
        span = _SPAN.search(head)
        assert span is not None, head
        start, end = int(span[1]), int(span[2]) + 1
        taken.sendall(
            b'HTTP/1.1 206 Partial Content\r\nETag: "x"\r\n'
            b"Last-Modified: Sat, 28 Nov 2026 00:00:00 GMT\r\n"
            b"Content-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\n\r\n"
            % (start, end - 1, len(data), end - start)
        )
        taken.sendall(data[start:end])


@contextmanager
def server() -> Iterator[str]:
    """Its URL; it is a process of its own, so that its time is not ours."""
    context = get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=serve, args=(its,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()
        process.join()


def readers(url: str) -> dict[str, Callable[[int, int], bytes]]:
    """Ways to get bytes: from a start, so many."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": url,
    }
    store = open_store("s3://films/clips")
    bare = S3Store("films", client_options={"allow_http": True})
    s3 = client(os.getpid(), environment(), read_s=READ_S)

    def by_boto3(start: int, length: int) -> bytes:
        span = f"bytes={start}-{start + length - 1}"
        return s3.get_object(Bucket="films", Key="clips/a", Range=span)["Body"].read()

    return {
        "store": lambda start, length: store.get_range("a", start=start, length=length),
        "obstore": lambda start, length: obstore.get_range(
            bare, "clips/a", start=start, length=length
        ).to_bytes(),
        "boto3": by_boto3,
    }


def cost_ms(read: Callable[[int, int], bytes], *, ranges: int, length: int, seed: int) -> float:
    """Milliseconds of this process, user and system, for a range."""
    places = random.Random(seed)
    began_s = _spent_s()
    for _ in range(ranges):
        if len(read(places.randrange(OBJECT_BYTES - length), length)) != length:
            raise RuntimeError("a range came short")
    return (_spent_s() - began_s) / ranges * 1e3


def _spent_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    """Measures; exit code 1 where the store's cost is too near to boto3's."""
    parser = argparse.ArgumentParser(description="the processor's time for short ranges of S3")
    parser.add_argument("--rounds", type=int, default=15, help="the ways take turns")
    parser.add_argument("--ranges", type=int, default=100, help="of a way in a round")
    parser.add_argument("--kib", type=int, default=128, help="of each range")
    args = parser.parse_args()
    print(
        f"{platform.platform()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.2f}",
        file=sys.stderr,
    )
    found: dict[str, list[float]] = {}
    with server() as url:
        ways = readers(url)
        for number in range(args.rounds + 1):
            for name, read in ways.items():
                cost = cost_ms(read, ranges=args.ranges, length=args.kib * 1024, seed=number)
                if number:  # the first one makes clients and connections
                    found.setdefault(name, []).append(cost)
    medians = {name: statistics.median(costs) for name, costs in found.items()}
    print("| way | CPU ms per range | least | most |\n| --- | --- | --- | --- |")
    for name, costs in found.items():
        print(f"| {name} | {medians[name]:.2f} | {min(costs):.2f} | {max(costs):.2f} |")
    ratio = medians["boto3"] / medians["store"]
    print(f"boto3 takes {ratio:.1f} times what the store takes, wanted {LEAST_RATIO:.0f} at least")
    return int(ratio < LEAST_RATIO)


if __name__ == "__main__":
    raise SystemExit(main())
