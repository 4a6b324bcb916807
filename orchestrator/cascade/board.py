"""What a stage on Ray says to its driver: events and its places; the stop flag the other way."""

import asyncio
import json
import logging
import threading
import time
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.errors import RushesError

log = logging.getLogger(__name__)

# How old the stop flag may be in a worker. Its training waits while Python is busy with a call.
_EXCHANGE_S = 1.0
_FLUSH_S = 30.0


class Board:
    """An actor beside the driver: events from workers wait here, and a stop flag per stage.

    It also knows how many workers of each stage have a place on a node, and their last beats.
    """

    def __init__(self) -> None:
        self._events: dict[str, list[str]] = {}
        self._stopping: set[str] = set()
        self._placed: dict[str, int] = {}
        self._beats: dict[str, dict[int, tuple[float, str]]] = {}
        self._arrived = asyncio.Condition()

    async def exchange(self, stage: str, events: list[str]) -> bool:
        """Leaves events (JSON); returns whether the stage should stop."""
        events = [self._heard(stage, event) for event in events]
        if events:
            async with self._arrived:
                self._events.setdefault(stage, []).extend(events)
                self._arrived.notify_all()
        return stage in self._stopping

    def _heard(self, stage: str, line: str) -> str:
        """Keeps a beat; its stack is for who asks here, not for the driver."""
        event = json.loads(line)
        if event["kind"] != "beat":
            return line
        beats = self._beats.setdefault(stage, {})
        beats[event["rank"]] = (time.monotonic(), line)
        if event.get("last"):
            del beats[event["rank"]]
        return json.dumps({name: value for name, value in event.items() if name != "stack"})

    async def beats(self, stage: str) -> list[tuple[float, str]]:
        """The last beat (JSON) of each rank that has begun and not ended, with its age in s."""
        now_s = time.monotonic()
        return [(now_s - heard_s, line) for heard_s, line in self._beats.get(stage, {}).values()]

    async def take(self, stage: str, wait_s: float) -> list[str]:
        """A stage's events in order; waits for the first one, at most ``wait_s``."""
        async with self._arrived:
            try:
                await asyncio.wait_for(
                    self._arrived.wait_for(lambda: self._events.get(stage)), timeout=wait_s
                )
            except TimeoutError:
                return []
            return self._events.pop(stage)

    async def stop(self, stage: str) -> None:
        """Asks a stage to save and end."""
        self._stopping.add(stage)

    async def is_stopping(self, stage: str) -> bool:
        """True once a stage was asked to end."""
        return stage in self._stopping

    async def place(self, stage: str, workers: int) -> None:
        """Notes how many workers of a stage hold their place."""
        self._placed[stage] = workers

    async def placed(self) -> dict[str, int]:
        """Workers with a place, by stage."""
        return self._placed


def open_board() -> Any:
    """Starts the board on the driver's node."""
    here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}  # pyright: ignore[reportAttributeAccessIssue]
    return ray.remote(num_cpus=0, label_selector=here)(Board).remote()


class BoardHooks:
    """Hooks of a worker on Ray: a thread carries events to the board and the stop flag back.

    Neither call waits for the network.
    """

    def __init__(self, board: Any, *, stage: str) -> None:
        self._board = board
        self._stage = stage
        self._events: list[str] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="board", daemon=True)
        self._thread.start()

    def event(self, event: dict[str, Any]) -> None:
        """Queues one event."""
        line = json.dumps(event)
        with self._lock:
            self._events.append(line)

    def should_stop(self) -> bool:
        """The flag as it was at most a moment ago."""
        return self._stop.is_set()

    def close(self) -> None:
        """Hands over what is queued; waits for that."""
        self._closed.set()
        self._thread.join(_FLUSH_S)

    def _carry(self) -> None:
        last = False
        while not last:
            last = self._closed.wait(_EXCHANGE_S)
            with self._lock:
                events, self._events = self._events, []
            try:
                if ray.get(self._board.exchange.remote(self._stage, events)):
                    self._stop.set()
            except RayError as error:
                log.warning("the driver's board is gone: %s", error)
                self._stop.set()  # nobody would hear of what comes next: it is saved instead
                return


class Reader:
    """The driver's end: a thread that hands a stage's events to a sink until it is closed.

    A board that is lost ends the thread, so does a sink that fails; ``close`` says so.
    """

    def __init__(self, board: Any, *, stage: str, sink: Any, stop: threading.Event) -> None:
        self._board = board
        self._stage = stage
        self._sink = sink
        self._stop = stop
        self._closed = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._read, name=f"events-{stage}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hands over what has arrived, then ends.

        Raises:
            RayError, ConnectionError: if the board was lost, and with it the stage's last events.
            RushesError: what the sink raised.
        """
        self._closed.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _read(self) -> None:
        try:
            self._carry()
        except (RayError, ConnectionError) as error:  # for the thread that closes this
            self._error = error
        except RushesError as error:  # the sink takes no more: what the stage has is saved
            self._error = error
            self._board.stop.remote(self._stage)

    def _carry(self) -> None:
        asked = False
        last = False
        while not last:
            last = self._closed.is_set()
            if self._stop.is_set() and not asked:
                ray.get(self._board.stop.remote(self._stage))
                asked = True
            wait_s = 0.01 if last else _EXCHANGE_S
            for line in ray.get(self._board.take.remote(self._stage, wait_s)):
                self._sink(json.loads(line))
