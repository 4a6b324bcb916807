"""`rushes train`: a recipe to a finished run, or on with one that is there."""

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.cascade.attempt import begin
from orchestrator.cascade.ends import noting_end
from orchestrator.cascade.executor import Executor
from orchestrator.cascade.goodput_file import read_rows
from orchestrator.cascade.local_executor import LocalExecutor
from orchestrator.cascade.run import Graph, Outcome, first_failure, raise_first_failure
from orchestrator.data.index import Index
from orchestrator.data.sources import ensure_sources
from orchestrator.errors import StoppedError
from orchestrator.launch.accounts import Accounts
from orchestrator.launch.gpus_seen import SeenGpu, gpus_here, gpus_of_cluster
from orchestrator.launch.meters import Sink, metering
from orchestrator.launch.overview import Overview
from orchestrator.launch.places import logs_dir, notes_dir, run_uri, with_absolute_uris
from orchestrator.launch.ray_session import Starting
from orchestrator.launch.recovery import Recoveries
from orchestrator.launch.refuse import refuse_unfit
from orchestrator.launch.signals import stop_on_signal
from orchestrator.launch.spending import left_out
from orchestrator.launch.terminal import PlainView, View, header, open_view, stage_table
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.probe import honours_put_new
from orchestrator.storage.store import Store, open_store
from orchestrator.tracking.target import resolve_target
from orchestrator.tracking.tracker import Tracker
from orchestrator.train.pretrained import find_encoders

_DRAIN_S = 30.0  # for MLflow to take the last events

GetExecutor = Callable[[], tuple[Executor, Sink | None]]
"""Waits for what stages run on; says as well who takes readings for Prometheus, if anybody does."""


def train(recipe: Recipe, *, run: str | None, local: bool, console: Console) -> None:
    """Runs a recipe to its end.

    Args:
        recipe: as loaded.
        run: URI of the run's folder; default: named after the recipe below ``runs``.
        local: without Ray, one plain process per rank.
        console: where to show it.

    Raises:
        RushesError: one line; the exit code is its class's.
    """
    recipe = with_absolute_uris(recipe)
    uri = run_uri(recipe, run=run)
    resolve_target(recipe.tracking.uri, run_uri=uri)
    stop = threading.Event()
    # A debugger's prompt needs the terminal to itself: nothing is drawn over it.
    view = PlainView(console) if local else open_view(console)
    clips: list[str] = []
    try:
        with (
            stop_on_signal(stop),
            (_without_ray if local else _with_ray)(recipe, uri, view=view) as executor,
        ):
            for line in header(recipe, run=uri, where="plain processes" if local else "Ray"):
                view.say(line)
            store = open_store(uri)
            store.check()
            if not honours_put_new(store):
                view.say(f"store    {uri} ignores conditional writes: start one driver per run")
            indexes = _sources(recipe, view=view, stop=stop)
            outcomes, said = _run(
                recipe,
                store,
                indexes=indexes,
                executor=executor,
                gpus=gpus_here if local else gpus_of_cluster,
                view=view,
                stop=stop,
                clips=clips,
            )
    finally:
        view.close()
    console.print(stage_table(recipe, outcomes))
    for line in [f"sample video: {clip}" for clip in clips[-2:]] + said:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    raise_first_failure(outcomes)


def _sources(recipe: Recipe, *, view: View, stop: threading.Event) -> dict[str, Index]:
    """Finds the encoders, opens or writes the clips, checks that every network can take them."""

    def on_clips(name: str, written: int, clips: int) -> None:
        if stop.is_set():
            raise StoppedError("stopped while clips were written; the same command goes on")
        view.event({"kind": "progress", "stage": f"clips/{name}", "step": written, "steps": clips})

    find_encoders(recipe)
    indexes = ensure_sources(recipe, on_clips=on_clips)
    # Late: it imports torch, and Ray is starting in the meantime.
    from orchestrator.train.sources import check_clips

    check_clips(recipe, indexes)
    return indexes


def _run(
    recipe: Recipe,
    store: Store,
    *,
    indexes: dict[str, Index],
    executor: GetExecutor,
    gpus: Callable[[], Sequence[SeenGpu]],
    view: View,
    stop: threading.Event,
    clips: list[str],
) -> tuple[dict[str, Outcome], list[str]]:
    """One start; returns how stages ended and what is to be said of time and tracking."""
    data = {name: index.digest for name, index in indexes.items()}
    ready, sink = executor()
    unknown = refuse_unfit(
        recipe, done=lambda stage: store.exists(f"stages/{stage}/DONE"), gpus=gpus
    )
    if unknown is not None:
        view.say(unknown)
    attempt = begin(store, recipe, data=data)
    with noting_end(store, attempt=attempt) as end:
        with metering(store.uri, sink=sink) as meter:
            outcomes, said = _walk(
                recipe,
                store,
                attempt=attempt,
                data=data,
                executor=ready,
                meter=meter,
                view=view,
                stop=stop,
                clips=clips,
            )
        end.error = first_failure(outcomes)
    return outcomes, said


def _walk(
    recipe: Recipe,
    store: Store,
    *,
    attempt: int,
    data: dict[str, str],
    executor: Executor,
    meter: Callable[[dict[str, Any]], None],
    view: View,
    stop: threading.Event,
    clips: list[str],
) -> tuple[dict[str, Outcome], list[str]]:
    """Walks the graph, and lets all know of it who keep or show what happens."""
    earlier, damaged = read_rows(store)
    if damaged:
        view.say(left_out(damaged))
    tracker = Tracker(
        tracking=recipe.tracking,
        run_uri=store.uri,
        attempt=attempt,
        spool_dir=notes_dir() / "spool",
    )
    overview = Overview(recipe, tell=tracker.event)
    spent: list[str] = []

    def chart(point: dict[str, Any]) -> None:
        tracker.event(point)
        meter(point)

    accounts = Accounts(recipe, store, attempt=attempt, earlier=earlier, tell=chart)

    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "artifact" and event["uri"].endswith((".gif", ".mp4")):
            clips.append(event["uri"])
        accounts.event(event)  # before the tracker, which ends a stage
        if not graph.fenced:
            tracker.event(event)
            overview.event(event)
            meter(event)
        view.event(event)
        recoveries.event(event)

    recoveries = Recoveries(tell=on_event)
    graph = Graph(
        recipe=recipe,
        store=store,
        attempt=attempt,
        data=data,
        executor=executor,
        on_event=on_event,
        stop=stop,
        logs=logs_dir(store.uri),
    )
    try:
        outcomes = graph.run()
    finally:
        spent += accounts.close()
        view.event({"kind": "status", "stage": "mlflow", "text": "taking the last events"})
        complete = tracker.close(_DRAIN_S)
        view.event({"kind": "status", "stage": "mlflow", "text": "done" if complete else "behind"})
    return outcomes, [*spent, *_about_tracking(tracker, complete=complete)]


def _about_tracking(tracker: Tracker, *, complete: bool) -> list[str]:
    lines = [f"open MLflow: {tracker.open_command()}"]
    if not complete:
        lines.append(
            f"MLflow has not taken everything yet (see {tracker.log_path}); nothing is lost, "
            "the next start sends the rest"
        )
    return lines


@contextmanager
def _without_ray(_recipe: Recipe, uri: str, *, view: View) -> Iterator[GetExecutor]:
    del view
    yield lambda: (LocalExecutor(logs=logs_dir(uri)), None)


@contextmanager
def _with_ray(recipe: Recipe, uri: str, *, view: View) -> Iterator[GetExecutor]:
    """Ray starts while the caller looks at the recipe's clips."""
    starting = Starting(recipe)
    with tempfile.TemporaryDirectory(prefix="rushes-train-") as scratch:

        def executor() -> tuple[Executor, Sink | None]:
            if not starting.is_ready:
                view.event({"kind": "status", "stage": "ray", "text": "starting"})
            session = starting.result()
            # Late: ray is imported in the thread that starts it.
            from orchestrator.cascade.ray_executor import RayExecutor
            from orchestrator.launch.ray_meters import open_ray_sink

            view.event({"kind": "status", "stage": "ray", "text": "ready"})
            ready = RayExecutor(
                scratch=Path(scratch),
                logs=logs_dir(uri),
                private=session.private,
            )
            return ready, None if session.private else open_ray_sink()

        try:
            yield executor
        finally:
            starting.close()
