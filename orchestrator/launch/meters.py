"""What a run's events mean to Prometheus: names, labels and values. Who carries them is a sink.

Labels are bounded: runs, stages of a recipe, ranks up to ``MOST_RANKS``, categories of time.
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from orchestrator.cascade.goodput_rows import CATEGORIES

MOST_RANKS = 1024  # with series of their own; the others share one
REST = "rest"
RANK_CATEGORIES = ("compute", "communication", "data_wait", "save_blocked")
_EVERY_S = 5.0  # per rank, and between two refreshes; Ray exports every ten
_HOUR_S = 3600.0
_PERCENT = 100.0


class Kind(Enum):
    """How values of a metric go together."""

    GAUGE = "gauge"  # the last one counts
    COUNTER = "counter"  # they are summed up


@dataclass(frozen=True)
class Metric:
    """A name that dashboards rely on; Ray puts ``ray_`` before it, ``_total`` behind a counter."""

    name: str
    kind: Kind
    text: str
    tags: tuple[str, ...] = ("run", "stage")


@dataclass(frozen=True)
class Reading:
    """A value of one series: what it is now, or what is added to it."""

    metric: Metric
    value: float
    tags: Mapping[str, str]


Sink = Callable[[Reading], None]


def _gauge(name: str, text: str, *tags: str) -> Metric:
    return Metric(f"rushes_{name}", Kind.GAUGE, text, tags or ("run", "stage"))


def _counter(name: str, text: str, *tags: str) -> Metric:
    return Metric(f"rushes_{name}", Kind.COUNTER, text, ("run", "stage", *tags))


RUNNING = _gauge("running", "1 from a stage's start to its end, then 0")
GANGS = _counter("gangs", "Gangs that started to train a stage: more than one is a restart")
RUN_GOODPUT = _gauge("run_goodput_ratio", "Useful part of all rank-seconds of the run", "run")
GOODPUT = _gauge("goodput_ratio", "Useful part of all rank-seconds of the stage")
SPENT = _gauge("spent_rank_seconds", "Rank-seconds of the stage so far", "run", "stage", "category")
RANK_STEPS = _counter("rank_steps", "Steps that a rank has done, repeated ones too", "rank")
RANK_SECONDS = _counter(
    "rank_seconds", "Seconds of a rank since its first step", "rank", "category"
)

OF_PROGRESS = {
    "step": _gauge("step", "Steps (shards, prompts) done, as last said"),
    "steps": _gauge("steps", "Steps (shards, prompts) of the whole stage"),
    "eta_s": _gauge("seconds_left", "Seconds until the last step at the speed of now"),
}
OF_METRICS = {
    "loss": _gauge("loss", "Mean loss of the last logged window"),
    "step_s": _gauge("step_seconds", "Seconds per step"),
    "data_wait_s": _gauge("data_wait_seconds", "Seconds per step that waited for clips"),
    "clips_per_s": _gauge("clips_per_second", "Clips per second over all ranks"),
    "model_tflops": _gauge("model_tflops", "TFLOP/s of the model, without recomputation"),
    "save/blocked_s": _gauge("save_blocked_seconds", "Seconds that the last save held steps up"),
    "save/every_steps": _gauge("save_every_steps", "Steps between two checkpoints"),
    "skipped_steps": _gauge("skipped_steps", "Steps that were not applied"),
    "spikes": _gauge("spikes", "Steps that were not applied for the norm of their gradient"),
    "rewinds": _gauge("rewinds", "Times that training went back for bad steps"),
    "ranks": _gauge("ranks", "Ranks of the gang"),
    "ranks/slowest": _gauge("slowest_rank", "The rank that the others wait for"),
    "ranks/slowest_step_s": _gauge("slowest_rank_step_seconds", "Its own seconds per step"),
    "ranks/median_step_s": _gauge("median_rank_step_seconds", "Own seconds of the middle rank"),
}

METRICS: tuple[Metric, ...] = (
    *(RUNNING, GANGS, RUN_GOODPUT, GOODPUT, SPENT, RANK_STEPS, RANK_SECONDS),
    *OF_PROGRESS.values(),
    *OF_METRICS.values(),
)


_LASTING = (RUNNING, GOODPUT, SPENT)  # also after a stage's end


@dataclass
class _Rank:
    """A rank's account as it was last told."""

    gang: str
    time: float
    step: int
    seconds: Mapping[str, float]


class Meters:
    """Takes every event of a run, from any thread, and gives readings.

    Args:
        run: the run's URI.
        sink: takes readings; called under a lock, so it must not wait.
    """

    def __init__(self, run: str, *, sink: Sink) -> None:
        self._run = run
        self._sink = sink
        self._lock = threading.Lock()
        self._gauges: dict[tuple[str, ...], Reading] = {}
        self._ranks: dict[tuple[str, int], _Rank] = {}
        self._starts: dict[str, int] = {}  # the step that a stage's gang goes on from

    def event(self, event: Mapping[str, Any]) -> None:
        """Takes one event; those that say nothing of these metrics are ignored."""
        with self._lock:
            for reading in self._read(event):
                if math.isfinite(reading.value):
                    self._put(reading)

    def refresh(self) -> None:
        """Says all gauges again: Ray forgets one that was not set for some 20 s."""
        with self._lock:
            for reading in self._gauges.values():
                self._sink(reading)

    def _put(self, reading: Reading) -> None:
        if reading.metric.kind is Kind.GAUGE:
            self._gauges[reading.metric.name, *reading.tags.values()] = reading
        self._sink(reading)

    def _read(self, event: Mapping[str, Any]) -> Iterator[Reading]:
        stage = event.get("stage")  # None: of the whole run
        match event["kind"]:
            case "metrics" if "goodput/useful" in event["values"]:
                yield from self._goodput(stage, event["values"])
            case "metrics" if stage is not None:
                yield from self._known(stage, event["values"], OF_METRICS)
            case "progress":
                yield from self._known(event["stage"], event, OF_PROGRESS)
            case "stage":
                yield self._of(RUNNING, 1.0, stage=event["stage"])
            case "end" if stage is not None:
                self._forget(stage)
                yield self._of(RUNNING, 0.0, stage=stage)
            case "moment" if event["moment"] == "loaded":
                self._starts[event["stage"]] = event["step"]
            case "gang" if event["what"] == "started":
                self._starts.pop(event["stage"], None)
                yield self._of(GANGS, 1.0, stage=event["stage"])
            case "beat":
                yield from self._beat(event)
            case _:
                pass

    def _forget(self, stage: str) -> None:
        """What says something of now is no longer said of a stage that is over."""
        self._ranks = {key: one for key, one in self._ranks.items() if key[0] != stage}
        self._gauges = {
            key: one
            for key, one in self._gauges.items()
            if one.tags.get("stage") != stage or one.metric in _LASTING
        }

    def _of(self, metric: Metric, value: float, **tags: str) -> Reading:
        return Reading(metric, float(value), {"run": self._run, **tags})

    def _known(
        self, stage: str, values: Mapping[str, Any], metrics: Mapping[str, Metric]
    ) -> Iterator[Reading]:
        for name, metric in metrics.items():
            if name in values:
                yield self._of(metric, values[name], stage=stage)

    def _goodput(self, stage: str | None, values: Mapping[str, float]) -> Iterator[Reading]:
        useful = values["goodput/useful"] / _PERCENT
        if stage is None:
            yield self._of(RUN_GOODPUT, useful)
            return
        yield self._of(GOODPUT, useful, stage=stage)
        percent_s = values["goodput/rank_hours"] * _HOUR_S / _PERCENT
        for category in CATEGORIES:  # one that has become 0 is not among the values
            spent = values.get(f"goodput/{category}", 0.0) * percent_s
            yield self._of(SPENT, spent, stage=stage, category=category)

    def _beat(self, beat: Mapping[str, Any]) -> Iterator[Reading]:
        """What a rank has done since it was last told, from its first step on."""
        stage, number = beat["stage"], beat["rank"]
        if beat["phase"] == "start_up":
            return
        now = _Rank(beat["gang"], time=beat["time"], step=beat["step"], seconds=beat["seconds"])
        last = self._ranks.get((stage, number))
        if last is None or last.gang != now.gang:
            # Rank 0 says where the gang begins; if others are heard before it, theirs is not known.
            known = stage in self._starts
            step, seconds = (self._starts[stage], {}) if known else (now.step, now.seconds)
            last = _Rank(now.gang, time=-math.inf, step=step, seconds=seconds)
        if now.time - last.time < _EVERY_S and not beat.get("last"):
            return
        self._ranks[stage, number] = now
        rank = str(number) if number < MOST_RANKS else REST
        if now.step > last.step:  # less after a rewind
            yield self._of(RANK_STEPS, now.step - last.step, stage=stage, rank=rank)
        for category in RANK_CATEGORIES:
            seconds = now.seconds.get(category, 0.0) - last.seconds.get(category, 0.0)
            if seconds > 0:
                yield self._of(RANK_SECONDS, seconds, stage=stage, rank=rank, category=category)


@contextmanager
def metering(run: str, *, sink: Sink | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yields what takes a run's events; gauges are refreshed while it lasts.

    Args:
        run: the run's URI.
        sink: as of ``Meters``; None: nobody asks for metrics, and events are dropped.
    """
    if sink is None:
        yield lambda event: None
        return
    meters, over = Meters(run, sink=sink), threading.Event()

    def refresh() -> None:
        while not over.wait(_EVERY_S):
            meters.refresh()

    thread = threading.Thread(target=refresh, name="meters", daemon=True)
    thread.start()
    try:
        yield meters.event
    finally:
        over.set()
        thread.join()
