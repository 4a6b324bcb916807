"""The walk over a recipe's graph, with an executor that only pretends."""

import json
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from orchestrator.cascade.attempt import begin
from orchestrator.cascade.done import read_done
from orchestrator.cascade.run import Graph, Outcome, raise_first_failure
from orchestrator.data.index import write_index
from orchestrator.data.shards import write_shard
from orchestrator.errors import FencedError, RushesError, StoppedError, UnavailableError, UserError
from orchestrator.recipe.load import load_recipe, parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import Store, open_store
from orchestrator.storage.uri import relative_to
from orchestrator.train.job import StageJob, StageResult
from orchestrator.train.latents import ENCODED, encoded_uri, latents_uri
from tests.data.clips import new_clip

DEBUG = Path(__file__).parents[2] / "jobs" / "sora_debug.yaml"
DATA = {"train": "a" * 64, "eval": "b" * 64}

Behaviour = Callable[[StageJob, threading.Event], StageResult]


def succeed(job: StageJob, stop: threading.Event) -> StageResult:
    return StageResult(status="done", step=1)


class FakeExecutor:
    """An executor whose stages do what a table says, and that keeps what it was asked."""

    def __init__(self, *, side_by_side: bool = False, **behaviours: Behaviour) -> None:
        self.side_by_side = side_by_side
        self.behaviours = behaviours
        self.started: list[str] = []

    def fits(self, job: StageJob, *, beside: tuple[StageJob, ...]) -> bool:
        return self.side_by_side

    def wait_for_room(self, jobs: tuple[StageJob, ...], *, beside: tuple[StageJob, ...]) -> None:
        pass

    def check(self) -> str | None:
        return None

    def run(self, job: StageJob, *, on_event: Any, stop: threading.Event) -> StageResult:
        self.started.append(job.stage)
        result = self.behaviours.get(job.stage, succeed)(job, stop)
        if job.spec.kind == "evaluate":
            open_store(job.run).put(f"{job.folder}/report.json", b"{}")
        on_event({"kind": "model", "stage": job.stage, "name": "m", "uri": "u", "sha256": "c" * 64})
        return result


def run_graph(
    recipe: Recipe, run: Path, executor: FakeExecutor, *, stop: threading.Event | None = None
) -> tuple[dict[str, Outcome], list[dict[str, Any]]]:
    store = open_store(str(run))
    events: list[dict[str, Any]] = []
    outcomes = Graph(
        recipe=recipe,
        store=store,
        attempt=begin(store, recipe, data=DATA),
        data=DATA,
        executor=executor,
        on_event=events.append,
        stop=stop or threading.Event(),
        logs=run.parent / "logs",
    ).run()
    return outcomes, events


def statuses(outcomes: dict[str, Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes.values()]


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe(DEBUG)


@pytest.fixture
def branching(recipe: Recipe) -> Recipe:
    """Two autoencoders side by side; the second starts nothing else."""
    tree = recipe.model_dump(mode="json")
    tree["stages"].insert(1, tree["stages"][0] | {"id": "other"})
    return parse_recipe(tree, origin="branching")


def test_stages_run_in_order_and_are_marked_done(recipe: Recipe, tmp_path: Path) -> None:
    executor = FakeExecutor()
    outcomes, events = run_graph(recipe, tmp_path / "run", executor)
    assert executor.started == ["autoencoder", "encode", "dit", "evaluate"]
    assert statuses(outcomes) == ["done"] * 4
    done = read_done(open_store(str(tmp_path / "run")), stage="autoencoder")
    assert done is not None
    assert done["output"] == "c" * 64
    ends = [(event["stage"], event["status"]) for event in events if event["kind"] == "end"]
    assert ends[-1] == (None, "FINISHED")
    assert len(ends) == 5


def test_a_graph_knows_when_a_newer_start_has_its_run(recipe: Recipe, tmp_path: Path) -> None:
    def be_late(job: StageJob, stop: threading.Event) -> StageResult:
        raise FencedError("start 2 of the run goes on with it")

    store = open_store(str(tmp_path / "run"))
    spoken_for: list[tuple[str, bool]] = []
    graph = Graph(
        recipe=recipe,
        store=store,
        attempt=begin(store, recipe, data=DATA),
        data=DATA,
        executor=FakeExecutor(autoencoder=be_late),
        on_event=lambda event: spoken_for.append((event["kind"], graph.fenced)),
        stop=threading.Event(),
        logs=tmp_path / "logs",
    )
    graph.run()
    assert all(fenced == (kind in ("note", "end")) for kind, fenced in spoken_for)
    assert ("end", True) in spoken_for


def test_finished_stages_are_not_run_again(recipe: Recipe, tmp_path: Path) -> None:
    run_graph(recipe, tmp_path / "run", FakeExecutor())
    executor = FakeExecutor()
    outcomes, _ = run_graph(recipe, tmp_path / "run", executor)
    assert executor.started == []
    assert statuses(outcomes) == ["kept"] * 4


def latents_beside_the_run(job: StageJob, stop: threading.Event) -> StageResult:
    """What an encode stage leaves: an index in the run, its one shard beside it."""
    shards = open_store(encoded_uri(job.run, key="k"))
    own = latents_uri(job.run, stage=job.stage)
    shard = write_shard(shards, "a.tar", [new_clip(0, (1, 8, 8))])
    write_index(open_store(own), [shard], origin={}, base=relative_to(shards.uri, folder=own))
    return StageResult(status="done", step=1)


def test_latents_that_are_gone_are_encoded_again_for_a_stage_that_is_to_read_them(
    recipe: Recipe, tmp_path: Path
) -> None:
    def fail(job: StageJob, stop: threading.Event) -> StageResult:
        raise UnavailableError("store: 503")

    def started(**behaviours: Behaviour) -> tuple[list[str], list[str]]:
        executor = FakeExecutor(encode=latents_beside_the_run, **behaviours)
        _, events = run_graph(recipe, tmp_path / "run", executor)
        told = [one["text"] for one in events if one["kind"] == "note" and "failure" not in one]
        return executor.started, told

    assert started(dit=fail) == (["autoencoder", "encode", "dit"], [])
    assert started(dit=fail) == (["dit"], [])
    shutil.rmtree(tmp_path / ENCODED)
    again = "was done, but shards of its latents are gone: it encodes them again"
    assert started() == (["encode", "dit", "evaluate"], [again])
    shutil.rmtree(tmp_path / ENCODED)
    assert started() == ([], [])


def test_a_failed_stage_stops_only_what_needs_it(branching: Recipe, tmp_path: Path) -> None:
    def fail(job: StageJob, stop: threading.Event) -> StageResult:
        raise UnavailableError("store: 503")

    executor = FakeExecutor(autoencoder=fail)
    outcomes, events = run_graph(branching, tmp_path / "run", executor)
    assert statuses(outcomes) == ["failed", "done", "blocked", "blocked", "blocked"]
    assert events[-1] == {"kind": "end", "stage": None, "status": "FAILED"}
    with pytest.raises(UnavailableError, match="store: 503"):
        raise_first_failure(outcomes)

    executor = FakeExecutor()
    outcomes, _ = run_graph(branching, tmp_path / "run", executor)
    assert executor.started == ["autoencoder", "encode", "dit", "evaluate"]
    assert statuses(outcomes) == ["done", "kept", "done", "done", "done"]


def test_a_defect_is_one_line_with_the_path_of_its_trace(recipe: Recipe, tmp_path: Path) -> None:
    def defect(job: StageJob, stop: threading.Event) -> StageResult:
        raise KeyError("no such thing")

    outcomes, _ = run_graph(recipe, tmp_path / "run", FakeExecutor(autoencoder=defect))
    error = outcomes["autoencoder"].error
    assert isinstance(error, RushesError)
    assert error.exit_code == 1
    log = Path(str(error).rpartition("log: ")[2])
    assert "Traceback" in log.read_text()
    assert "\n" not in str(error)


def test_a_stop_ends_the_running_stage_and_starts_no_other(recipe: Recipe, tmp_path: Path) -> None:
    stop = threading.Event()

    def stopped(job: StageJob, stop: threading.Event) -> StageResult:
        stop.set()
        return StageResult(status="stopped", step=3)

    executor = FakeExecutor(autoencoder=stopped)
    outcomes, events = run_graph(recipe, tmp_path / "run", executor, stop=stop)
    assert executor.started == ["autoencoder"]
    assert statuses(outcomes) == ["stopped"] * 4
    assert events[-1]["status"] == "KILLED"
    with pytest.raises(StoppedError):
        raise_first_failure(outcomes)


def test_ready_stages_run_side_by_side_where_they_fit(branching: Recipe, tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=20)

    def meet(job: StageJob, stop: threading.Event) -> StageResult:
        both.wait()
        return StageResult(status="done", step=1)

    executor = FakeExecutor(side_by_side=True, autoencoder=meet, other=meet)
    outcomes, _ = run_graph(branching, tmp_path / "run", executor)
    assert statuses(outcomes) == ["done"] * 5


class KilledError(BaseException):
    """The driver is gone."""


class KilledStore:
    """A store whose process is killed before one of its writes."""

    def __init__(self, store: Store, *, writes: int) -> None:
        self._store = store
        self._left = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: bytes) -> None:
        self._left -= 1
        if self._left < 0:
            raise KilledError
        self._store.put(key, data)


@pytest.mark.parametrize("seed", range(8))
def test_killed_at_random_no_finished_stage_is_repeated(
    recipe: Recipe, tmp_path: Path, seed: int
) -> None:
    tree = recipe.model_dump(mode="json")
    tree["stages"] = [tree["stages"][0] | {"id": f"s{number}"} for number in range(7)]
    seven = parse_recipe(tree, origin="seven")
    store = open_store(str(tmp_path / "run"))
    random = Random(seed)
    finished: set[str] = set()
    while len(finished) < 7:
        executor = FakeExecutor()
        graph = Graph(
            recipe=seven,
            store=KilledStore(store, writes=random.randrange(1, 8)),  # pyright: ignore[reportArgumentType]
            attempt=begin(store, seven, data=DATA),
            data=DATA,
            executor=executor,
            on_event=lambda event: None,
            stop=threading.Event(),
            logs=tmp_path / "logs",
        )
        with suppress(KilledError):
            graph.run()
        assert not finished & set(executor.started)
        finished = {stage.id for stage in seven.stages if read_done(store, stage=stage.id)}


def changed(recipe: Recipe, **fields: Any) -> Recipe:
    """The recipe with other values in its first stage's training."""
    tree = recipe.model_dump(mode="json")
    tree["stages"][0]["train"] |= fields
    return parse_recipe(tree, origin="changed")


def test_a_finished_stage_may_not_change_and_the_key_is_named(
    recipe: Recipe, tmp_path: Path
) -> None:
    run_graph(recipe, tmp_path / "run", FakeExecutor())
    with pytest.raises(UserError, match=r"stages\.autoencoder\.train\.steps=61, but .* has 60"):
        begin(open_store(str(tmp_path / "run")), changed(recipe, steps=61), data=DATA)


def test_a_finished_stage_may_not_go(branching: Recipe, recipe: Recipe, tmp_path: Path) -> None:
    run_graph(branching, tmp_path / "run", FakeExecutor())
    with pytest.raises(UserError, match=r"stages\.other=null, .* stage other .* is finished"):
        begin(open_store(str(tmp_path / "run")), recipe, data=DATA)


def test_a_run_takes_another_pace_and_a_change_to_what_is_not_finished(
    recipe: Recipe, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "run"))
    assert begin(store, recipe, data=DATA) == 1
    assert begin(store, changed(recipe, micro_batch=4), data=DATA) == 2
    assert begin(store, changed(recipe, steps=61), data=DATA) == 3
    tree = json.loads(store.get("recipe.json"))
    assert tree["recipe"]["stages"][0]["train"]["steps"] == 61
    assert store.list("attempts/") == [f"attempts/000{number}.json" for number in (1, 2, 3)]


def test_a_start_is_newer_than_all_that_are_left(recipe: Recipe, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    store.put("attempts/0051.json", b"{}")
    assert begin(store, recipe, data=DATA) == 52


def test_a_fixed_recipe_runs_only_what_is_missing(branching: Recipe, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))

    def saves_and_fails(job: StageJob, stop: threading.Event) -> StageResult:
        store.put(f"{job.folder}/checkpoints/step-00000040/COMMIT", b"{}")
        raise RushesError("gradients were not finite")

    run_graph(branching, tmp_path / "run", FakeExecutor(autoencoder=saves_and_fails))
    executor = FakeExecutor()
    outcomes, events = run_graph(changed(branching, steps=61), tmp_path / "run", executor)
    assert executor.started == ["autoencoder", "encode", "dit", "evaluate"]
    assert statuses(outcomes) == ["done", "kept", "done", "done", "done"]
    (note,) = [event["text"] for event in events if event["kind"] == "note"]
    assert "checkpoints up to step 40 are put aside and it starts from step 0" in note
    assert not store.exists("stages/autoencoder/checkpoints/step-00000040/COMMIT")


def test_a_finished_stage_may_not_get_other_clips(recipe: Recipe, tmp_path: Path) -> None:
    run_graph(recipe, tmp_path / "run", FakeExecutor())
    store = open_store(str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"data\.train: index digest dddddddddddd"):
        begin(store, recipe, data=DATA | {"train": "d" * 64})


def test_clips_that_only_unfinished_stages_read_may_change(recipe: Recipe, tmp_path: Path) -> None:
    def fail(job: StageJob, stop: threading.Event) -> StageResult:
        raise RushesError("no such clips")

    run_graph(recipe, tmp_path / "run", FakeExecutor(evaluate=fail))
    store = open_store(str(tmp_path / "run"))
    assert begin(store, recipe, data=DATA | {"eval": "e" * 64}) == 2
