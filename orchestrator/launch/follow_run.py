"""`rushes status --watch`: looks at a run's folder until the run has ended."""

import json
import time
from collections.abc import Callable
from typing import Any, Protocol

import typer
from rich.console import Console, Group
from rich.live import Live

from orchestrator.cascade.ends import raise_end
from orchestrator.errors import UnavailableError
from orchestrator.launch.look import Look
from orchestrator.launch.status import status_parts, step_of
from orchestrator.launch.terminal import duration

LOOK_S = 2.0  # between two looks, at least
_SHARE = 20  # of a look's own time that passes before the next one, at least
_SILENCE_S = 600.0  # without an answer of the store: then we give up
_QUIET_S = 60.0  # without a change: then we say so
_PARTS = 10  # lines per stage where there is no terminal
_INTERRUPTED = 130  # as of any command that Ctrl-C ends: there is nothing to save


class Screen(Protocol):
    """Shows what was seen of a run."""

    def show(self, status: dict[str, Any]) -> None:
        """A run as it is now."""
        ...

    def say(self, text: str) -> None:
        """What there is to say besides; empty: nothing any more."""
        ...

    def close(self) -> None:
        """Nothing is shown after this."""
        ...


class TableScreen:
    """The tables of `rushes status`, drawn anew in their place, for a terminal."""

    def __init__(self, console: Console) -> None:
        self._said = ""
        self._parts: list[Any] = []
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def show(self, status: dict[str, Any]) -> None:
        """Draws the tables."""
        self._parts = status_parts(status)
        self._draw()

    def say(self, text: str) -> None:
        """A line below them."""
        if text != self._said:
            self._said = text
            self._draw()

    def close(self) -> None:
        """Leaves what is on the screen."""
        self._live.stop()

    def _draw(self) -> None:
        said = [self._said] if self._said else []
        self._live.update(Group(*self._parts, *said), refresh=True)


class LineScreen:
    """A line where a stage's state or checkpoint changes, or a tenth of it is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, tuple[Any, ...]] = {}
        self._said = False

    def show(self, status: dict[str, Any]) -> None:
        """Prints lines of what has changed."""
        for stage in status["stages"]:
            tenth = _PARTS * step_of(stage) // stage["steps"] if stage["steps"] else 0
            now = (status["attempts"], stage["state"], tenth)
            if self._shown.get(stage["id"]) != now:
                self._shown[stage["id"]] = now
                self._print(_line(stage))

    def say(self, text: str) -> None:
        """Prints it once, until nothing was to be said again."""
        if text and not self._said:
            self._print(text)
        self._said = bool(text)

    def close(self) -> None:
        """Nothing to do."""

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class JsonScreen:
    """A line of JSON at every change, for machines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, Any] | None = None

    def show(self, status: dict[str, Any]) -> None:
        """Prints what `rushes status --json` would, if it is not what it was."""
        if status != self._shown:
            self._shown = status
            self._console.out(json.dumps(status), highlight=False)

    def say(self, text: str) -> None:
        """Nothing that a machine could read."""

    def close(self) -> None:
        """Nothing to do."""


def open_screen(console: Console, *, as_json: bool) -> Screen:
    """JSON where that is asked for, tables in a terminal, lines elsewhere."""
    if as_json:
        return JsonScreen(console)
    return TableScreen(console) if console.is_terminal else LineScreen(console)


def watch_run(uri: str, *, as_json: bool, console: Console) -> None:
    """As ``follow_run``, on a console; Ctrl-C leaves the run alone and ends with 130."""
    try:
        follow_run(uri, screen=open_screen(console, as_json=as_json))
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None


def follow_run(
    uri: str,
    *,
    screen: Screen,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Shows a run until its newest start has ended, or all of its stages are done.

    Args:
        uri: the run's folder.
        screen: where to show it; closed at the end.
        pause: waits for so many seconds between two looks.
        clock: seconds.

    Raises:
        UserError: if there is no run, or it ended with one.
        RushesError: what the run ended with, as its own command did.
        UnavailableError: if the store has not answered for ten minutes.
    """
    try:
        last = _Following(Look(uri), screen=screen, clock=clock).to_its_end(pause)
    finally:
        screen.close()
    if last["end"] is not None:
        raise_end(last["end"], attempt=last["attempts"])


class _Following:
    """What was last seen of a run, and when it last changed."""

    def __init__(self, look: Look, *, screen: Screen, clock: Callable[[], float]) -> None:
        self._look = look
        self._screen = screen
        self._clock = clock
        self._last: dict[str, Any] = {}
        self._changed_s = self._answered_s = clock()

    def to_its_end(self, pause: Callable[[float], None]) -> dict[str, Any]:
        while True:
            started_s = self._clock()
            self._see()
            if self._last and (self._last["end"] is not None or _is_done(self._last)):
                return self._last
            pause(max(LOOK_S, _SHARE * (self._clock() - started_s)))

    def _see(self) -> None:
        try:
            status = self._look.read()
        except UnavailableError as error:
            if self._clock() - self._answered_s > _SILENCE_S:
                raise
            self._screen.say(f"no answer, still asking: {error}")
            return
        now_s = self._answered_s = self._clock()
        if status != self._last:
            self._last, self._changed_s = status, now_s
            self._screen.show(status)
        quiet_s = now_s - self._changed_s
        self._screen.say(
            f"nothing new for {duration(quiet_s)}: it waits for room, or its command was killed"
            if quiet_s >= _QUIET_S
            else ""
        )


def _is_done(status: dict[str, Any]) -> bool:
    return all(stage["state"] == "done" for stage in status["stages"])


def _line(stage: dict[str, Any]) -> str:
    cells = [stage["id"], stage["state"]]
    if stage["state"] == "started" and stage["steps"] is not None:
        cells.append(f"{step_of(stage)}/{stage['steps']}")
    if stage["loss"] is not None:
        cells.append(f"loss {stage['loss']:.4g}")
    return "  ".join(cells)
