"""What a user sees of a run: a header, a line per stage, a table at the end."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.cascade.run import Outcome
from orchestrator.launch.places import source_lines
from orchestrator.recipe.data import IMAGES, TRAIN
from orchestrator.recipe.recipe import Recipe

_PARTS = 10  # lines per stage where there is no terminal
_REFRESH_PER_S = 4

_WORDS = {
    "done": "[green]done",
    "kept": "[green]done before",
    "failed": "[red]failed",
    "stopped": "[yellow]stopped",
    "blocked": "[yellow]not started",
}


@dataclass
class Line:
    """What is known of one stage, or of something that comes before them."""

    state: str = "waiting"
    step: int = 0
    steps: int | None = None
    found: int = 0  # steps that were there at the start
    loss: float | None = None
    clips_per_s: float | None = None
    eta_s: float | None = None
    started_s: float | None = None

    def take(self, event: Mapping[str, Any]) -> None:
        """Takes a progress event; what it does not say stays."""
        self.state = "running"
        self.step, self.steps = event["step"], event["steps"]
        self.found = event.get("found", 0)
        self.loss = event.get("loss", self.loss)
        self.clips_per_s = event.get("clips_per_s", self.clips_per_s)
        self.eta_s = event.get("eta_s", self._guess_eta())

    def _guess_eta(self) -> float | None:
        done = self.step - self.found
        if self.started_s is None or not done or self.steps is None:
            return None
        return (time.monotonic() - self.started_s) / done * (self.steps - self.step)

    def cells(self) -> list[str]:
        """State, step, loss, speed and time left as text."""
        step = f"{self.step}/{self.steps}" if self.steps else ""
        loss = f"loss {self.loss:.4g}" if self.loss is not None else ""
        speed = f"{self.clips_per_s:.1f} clips/s" if self.clips_per_s is not None else ""
        running = self.state == "running"
        left = f"{duration(self.eta_s)} left" if running and self.eta_s is not None else ""
        return [self.state, step, loss, speed, left]


class View(Protocol):
    """Takes events from any thread and shows them."""

    def say(self, text: str) -> None:
        """One line."""
        ...

    def event(self, event: Mapping[str, Any]) -> None:
        """Shows an event, or not."""
        ...

    def close(self) -> None:
        """Nothing moves any more after this."""
        ...


class LiveView:
    """One line per stage that is kept up to date, for a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: dict[str, Line] = {}
        self._lock = threading.Lock()
        self._live = Live(
            get_renderable=self._render,
            console=console,
            refresh_per_second=_REFRESH_PER_S,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def say(self, text: str) -> None:
        """Prints above the live lines."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def event(self, event: Mapping[str, Any]) -> None:
        """Updates a line; notes are printed."""
        with self._lock:
            note = update(self._lines, event)
        if note:
            self.say(note)

    def close(self) -> None:
        """Leaves the last state on the screen."""
        self._live.stop()

    def _render(self) -> Table:
        grid = Table.grid(padding=(0, 2))
        with self._lock:
            for name, line in self._lines.items():
                grid.add_row(Text(name), *(Text(cell) for cell in line.cells()))
        return grid


class PlainView:
    """A bounded number of plain lines, for a file or a job's log."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: dict[str, Line] = {}
        self._shown: dict[str, int] = {}
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """Prints it."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def event(self, event: Mapping[str, Any]) -> None:
        """Prints a line when a stage starts and after every tenth of it."""
        with self._lock:
            note = update(self._lines, event)
            if note:
                self.say(note)
            if event["kind"] == "progress":
                self._show_part(event["stage"])
            elif event["kind"] in ("stage", "status"):
                self.say(_plain(event["stage"], self._lines[event["stage"]]))

    def close(self) -> None:
        """Nothing to do."""

    def _show_part(self, name: str) -> None:
        line = self._lines[name]
        part = _PARTS * line.step // (line.steps or 1)
        if part > self._shown.get(name, -1):
            self._shown[name] = part
            self.say(_plain(name, line))


def open_view(console: Console) -> View:
    """Live lines in a terminal, plain ones elsewhere."""
    return LiveView(console) if console.is_terminal else PlainView(console)


def update(lines: dict[str, Line], event: Mapping[str, Any]) -> str | None:
    """Takes an event into the lines; returns a line to print, if there is one."""
    name = event.get("stage")
    if name is None:
        return None
    line = lines.setdefault(name, Line())
    match event["kind"]:
        case "stage":
            line.state, line.started_s = "starting", time.monotonic()
        case "status":
            line.state = event["text"]
        case "progress":
            line.take(event)
        case "note" if not event.get("failure"):  # a failure is said in the table and at the end
            return f"{name}: {event['text']}"
        case "end":
            line.state = {"FINISHED": "done", "FAILED": "failed"}.get(event["status"], "stopped")
        case _:
            pass
    return None


def header(recipe: Recipe, *, run: str, where: str) -> list[str]:
    """What is being started, and where it is kept."""
    stages = ", ".join(stage.id for stage in recipe.stages)
    return [
        f"rushes train {recipe.name}: {stages}",
        f"run      {run}",
        *source_lines("clips    ", recipe.data.of(TRAIN)),
        *source_lines("images   ", recipe.data.of(IMAGES)),
        f"tracking {recipe.tracking.uri} (experiment {recipe.tracking.experiment})",
        f"on       {where}",
    ]


def stage_table(recipe: Recipe, outcomes: Mapping[str, Outcome]) -> Table:
    """How every stage ended."""
    table = Table(title=None)
    for name in ("stage", "kind", "state", "time", "why"):
        table.add_column(name, overflow="fold")
    for stage in recipe.stages:
        outcome = outcomes[stage.id]
        seconds = duration(outcome.seconds) if outcome.seconds else ""
        table.add_row(stage.id, stage.kind, _WORDS[outcome.status], seconds, Text(_why(outcome)))
    return table


def _why(outcome: Outcome) -> str:
    if outcome.error is not None:
        return str(outcome.error)
    return f"needs {', '.join(outcome.missing)}" if outcome.missing else ""


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _plain(name: str, line: Line) -> str:
    return "  ".join(cell for cell in [name, *line.cells()] if cell)
