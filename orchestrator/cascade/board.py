"""What a stage on Ray says to its driver and its controller, and what they ask of it."""

import asyncio
import json
import logging
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError

from orchestrator.errors import RushesError
from orchestrator.train.hooks import Asked

log = logging.getLogger(__name__)

# How old what is asked may be in a worker. Its training waits while Python is busy with a call.
_EXCHANGE_S = 1.0
_FLUSH_S = 30.0
_GONE_S = 60.0  # that a board may be out of reach


@dataclass
class GangState:
    """What the board knows of a stage's gang.

    Attributes:
        placed: workers that have a place.
        group: hex id of the placement group that holds it; None: no group of ours.
        stopping: it was asked to end.
        pausing: it was asked to save and wait.
        saved: the step that it waits at, saved.
        left_s: seconds of training left, as last logged.
        began_at: the step that the gang went on from; None: it has not come that far.
    """

    placed: int = 0
    group: str | None = None
    stopping: bool = False
    pausing: bool = False
    saved: int | None = None
    left_s: float | None = None
    began_at: int | None = None


class Board:
    """An actor beside the driver: events from workers wait here, and what each gang is asked.

    It also knows which gangs have their place on nodes, and their ranks' last beats.
    """

    def __init__(self) -> None:
        self._events: dict[str, list[str]] = {}
        self._gangs: dict[str, GangState] = {}
        self._beats: dict[str, dict[int, tuple[float, str]]] = {}
        self._growing = True
        self._arrived = asyncio.Condition()

    async def exchange(
        self,
        stage: str,
        events: list[str],
        saved: int | None = None,
        left_s: float | None = None,
    ) -> int:
        """Leaves events (JSON) and how far the gang is; returns what it is ``Asked``."""
        events = [self._heard(stage, event) for event in events]
        if events:
            async with self._arrived:
                self._events.setdefault(stage, []).extend(events)
                self._arrived.notify_all()
        gang = self._gangs.get(stage, GangState())  # none for a stage whose turn is over
        if saved is not None and gang.pausing:
            gang.saved = saved
        if left_s is not None:
            gang.left_s = left_s
        if gang.stopping:
            return int(Asked.STOP)
        return int(Asked.PAUSE if gang.pausing else Asked.NOTHING)

    def _heard(self, stage: str, line: str) -> str:
        """Keeps a beat and where a gang begins; stacks are for who asks here, not the driver."""
        event = json.loads(line)
        if event.get("moment") == "loaded" and stage in self._gangs:
            self._gangs[stage].began_at = event["step"]
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
        self._gangs.get(stage, GangState()).stopping = True

    async def pause(self, stage: str) -> None:
        """Asks a gang to save and wait; what it said of an earlier request is forgotten."""
        gang = self._gang(stage)
        gang.pausing, gang.saved = True, None

    async def go_on(self, stage: str) -> None:
        """Takes that back."""
        gang = self._gang(stage)
        gang.pausing, gang.saved = False, None

    async def begin(self, stage: str) -> bool:
        """Before a gang starts: forgets the last one; returns whether the stage should end."""
        gang = self._gang(stage)
        self._gangs[stage] = GangState(stopping=gang.stopping)
        return gang.stopping

    async def look(self, stage: str) -> dict[str, Any]:
        """All that is known of a stage's gang: fields of ``GangState``."""
        return asdict(self._gang(stage))

    async def place(self, stage: str, workers: int, group: str | None = None) -> None:
        """Notes how many workers of a stage hold their place, and in which group."""
        gang = self._gang(stage)
        gang.placed, gang.group = workers, group

    async def enter(self, stage: str) -> None:
        """A stage's turn begins: it looks for a place."""
        self._gangs[stage] = GangState()

    async def leave(self, stage: str) -> None:
        """A stage's turn is over."""
        self._gangs.pop(stage, None)

    async def placed(self) -> dict[str, int]:
        """Workers with a place, by stage whose turn it is."""
        return {stage: gang.placed for stage, gang in self._gangs.items()}

    async def let_grow(self, growing: bool) -> None:
        """Whether gangs may grow into what is free."""
        self._growing = growing

    async def may_grow(self, stage: str) -> bool:
        """False as well while another stage has lost its place and looks for a new one."""
        others = (gang for other, gang in self._gangs.items() if other != stage)
        return self._growing and all(gang.placed for gang in others)

    def _gang(self, stage: str) -> GangState:
        return self._gangs.setdefault(stage, GangState())


def open_board() -> Any:
    """Starts the board on the driver's node."""
    here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}  # pyright: ignore[reportAttributeAccessIssue]
    return ray.remote(num_cpus=0, label_selector=here)(Board).remote()


class BoardHooks:
    """Hooks of a worker on Ray: a thread carries events to the board and back what it asks.

    No call but ``paused`` waits for the network.
    """

    def __init__(self, board: Any, *, stage: str) -> None:
        self._board = board
        self._stage = stage
        self._events: list[str] = []
        self._lock = threading.Lock()
        self._asked = Asked.NOTHING
        self._heard = threading.Condition()
        self._saved: int | None = None
        self._left_s: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="board", daemon=True)
        self._thread.start()

    def event(self, event: dict[str, Any]) -> None:
        """Queues one event; what it says of the time left is for the controller too."""
        self._left_s = event.get("eta_s", self._left_s)
        line = json.dumps(event)
        with self._lock:
            self._events.append(line)

    def should_stop(self) -> bool:
        """As it was at most a moment ago."""
        return self._asked is Asked.STOP

    def should_pause(self) -> bool:
        """The same."""
        return self._asked is Asked.PAUSE

    def paused(self, step: int) -> None:
        """Tells the controller, again and again, until it takes its request back."""
        self._saved = step
        with self._heard:
            self._heard.wait_for(lambda: self._asked is not Asked.PAUSE)
        self._saved = None

    def close(self) -> None:
        """Hands over what is queued; waits for that."""
        self._closed.set()
        self._thread.join(_FLUSH_S)

    def _carry(self) -> None:
        last, reached_s = False, time.monotonic()
        while not last:
            last = self._closed.wait(_EXCHANGE_S)
            says = (self._saved, self._left_s)  # before the events: those of a save go with it
            with self._lock:
                events, self._events = self._events, []
            try:
                self._hear(Asked(ray.get(self._board.exchange.remote(self._stage, events, *says))))
                reached_s = time.monotonic()
            except ActorUnavailableError as error:  # perhaps for a moment; it may hear them twice
                with self._lock:
                    self._events = [*events, *self._events]
                if last or time.monotonic() - reached_s > _GONE_S:
                    return self._give_up(error)
            except RayError as error:
                return self._give_up(error)

    def _give_up(self, error: RayError) -> None:
        log.warning("the driver's board is gone: %s", error)
        self._hear(Asked.STOP)  # nobody would hear of what comes next: it is saved instead

    def _hear(self, asked: Asked) -> None:
        with self._heard:
            self._asked = asked
            self._heard.notify_all()


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
