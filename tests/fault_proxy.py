"""A proxy in front of a local HTTP server that breaks chosen requests.

Every request is forwarded on a connection of its own, so that a fault hits exactly one.
"""

import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

_CHUNK = 65536
_TRICKLE_S = 0.05  # between two bytes
_SIP = 4096
_SIP_S = 0.02  # between two of them
LATE_S = 0.05
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>injected</Message></Error>"

Kind = Literal[
    "status",  # 503 SlowDown
    "refuse",  # reset at once
    "hang",  # no answer
    "truncate",  # an end after ``after_bytes`` of the answer
    "reset",  # a reset after ``after_bytes`` of the answer
    "stall",  # nothing more after ``after_bytes`` of the answer
    "trickle",  # a byte now and then after ``after_bytes`` of the answer
    "slow",  # request and answer pass in small sips
    "swallow",  # the request is done, the answer lost
    "withhold",  # the request is done, the answer does not come
    "hold",  # passed on when it is released
    "late",  # passed on a little later, as by a store that is far away
]


@dataclass(frozen=True)
class Fault:
    """What happens to ``times`` requests whose head holds ``match``, after the first ``skip``."""

    kind: Kind
    times: int = 1_000_000
    match: bytes = b""
    skip: int = 0
    after_bytes: int = 0


class FaultProxy:
    """Transparent until it is given a fault."""

    def __init__(self, port: int) -> None:
        self._upstream = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closed = threading.Event()
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._faults: tuple[Fault, ...] = ()
        self._hits: Counter[Fault] = Counter()
        self._skipped: Counter[Fault] = Counter()
        self._heads: list[bytes] = []
        self.was_hit = threading.Event()  # a request is where its fault wants it
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where to connect to."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def hits(self) -> int:
        """Requests that were broken since faults were set."""
        with self._lock:
            return self._hits.total()

    @property
    def left(self) -> list[Fault]:
        """Faults that have not been met as often as they may be."""
        with self._lock:
            return [fault for fault in self._faults if self._hits[fault] < fault.times]

    def set(self, *faults: Fault) -> None:
        """Breaks requests from now on, each by the first that fits and has not struck enough."""
        with self._lock:
            self._faults = faults
            self._hits.clear()
            self._skipped.clear()
            self._heads.clear()
            self._released.clear()
            self.was_hit.clear()

    def release(self) -> None:
        """Passes on what is held, and breaks nothing more."""
        with self._lock:
            self._faults = ()
        self._released.set()

    def heads(self, part: bytes) -> int:
        """How many requests, since a fault was set, have ``part`` in their head."""
        with self._lock:
            return sum(part in head for head in self._heads)

    def close(self) -> None:
        """Stops listening and lets go of requests that hang."""
        self._closed.set()
        self._released.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _take(self, head: bytes) -> Fault | None:
        with self._lock:
            self._heads.append(head)
            for fault in self._faults:
                if fault.match not in head or self._hits[fault] == fault.times:
                    continue
                if self._skipped[fault] < fault.skip:
                    self._skipped[fault] += 1
                else:
                    self._hits[fault] += 1
                    if fault.kind != "withhold":
                        self.was_hit.set()
                    return fault
            return None

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            received = b""
            while b"\r\n\r\n" not in received:
                chunk = client.recv(_CHUNK)
                if not chunk:
                    return
                received += chunk
            head, _, rest = received.partition(b"\r\n\r\n")
            fault = self._take(head)
            match fault.kind if fault else None:
                case "refuse":
                    _reset(client)
                case "hang":
                    self._closed.wait()
                    _reset(client)
                case "status":
                    _unavailable(client)
                case "hold":
                    self._released.wait()
                    self._forward(client, head, rest, None)
                case "late":
                    self._closed.wait(LATE_S)
                    self._forward(client, head, rest, None)
                case _:
                    self._forward(client, head, rest, fault)

    def _forward(
        self, client: socket.socket, head: bytes, rest: bytes, fault: Fault | None
    ) -> None:
        with socket.create_connection(self._upstream) as server:
            server.sendall(_alone(head) + b"\r\n\r\n" + rest)
            awaited = _body_bytes(head) - len(rest)
            is_slow = fault is not None and fault.kind == "slow"
            size, rest_s = (_SIP, _SIP_S) if is_slow else (_CHUNK, 0.0)
            pump = (client, server, awaited, size, rest_s, self._closed)
            threading.Thread(target=_pump, args=pump, daemon=True).start()
            sent = 0
            while data := server.recv(size):
                if fault is None or is_slow:
                    client.sendall(data)
                    self._closed.wait(rest_s)
                elif fault.kind in ("swallow", "withhold"):
                    if data.startswith(b"HTTP/1.1 100"):
                        client.sendall(data)  # or the client would never send its body
                else:
                    now, later = data[: fault.after_bytes - sent], data[fault.after_bytes - sent :]
                    client.sendall(now)
                    sent += len(now)
                    if sent == fault.after_bytes:
                        self._hold_back(client, server, later, fault.kind)
                        break
            if fault is not None and fault.kind == "withhold":
                self.was_hit.set()
                self._closed.wait()
            if fault is not None and fault.kind not in ("truncate", "slow"):
                _reset(client)
            else:
                client.shutdown(socket.SHUT_RDWR)

    def _hold_back(
        self, client: socket.socket, server: socket.socket, data: bytes, kind: Kind
    ) -> None:
        """The rest of an answer that comes slowly, or not; for as long as the proxy lives."""
        if kind == "stall":
            self._closed.wait()
        while kind == "trickle" and data and not self._closed.is_set():
            client.sendall(data[:1])
            self._closed.wait(_TRICKLE_S)
            data = data[1:] or server.recv(_CHUNK)


@contextmanager
def fault_proxy(port: int) -> Iterator[FaultProxy]:
    """A proxy in front of a port, closed in the end."""
    proxy = FaultProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()


def _alone(head: bytes) -> bytes:
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([lines[0], b"Connection: close", *lines[1:]])


def _unavailable(client: socket.socket) -> None:
    head = f"HTTP/1.1 503 Slow Down\r\nContent-Length: {len(_SLOW_DOWN)}\r\nConnection: close\r\n"
    client.sendall(head.encode() + b"\r\n" + _SLOW_DOWN)
    client.shutdown(socket.SHUT_WR)
    while client.recv(_CHUNK):  # or closing would reset the answer away
        pass


def _body_bytes(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _pump(
    source: socket.socket,
    target: socket.socket,
    awaited: int,
    size: int,
    rest_s: float,
    closed: threading.Event,
) -> None:
    """Passes a body on and no more: a socket that is read from cannot be reset."""
    with suppress(OSError):
        while awaited > 0 and (data := source.recv(min(size, awaited))):
            target.sendall(data)
            awaited -= len(data)
            closed.wait(rest_s)


def _reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        client.shutdown(socket.SHUT_RD)  # a thread that still reads would keep it open
    client.close()
