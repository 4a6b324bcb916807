"""Checkpoints that are damaged in a bucket: the run ends as if they had never been."""

from collections.abc import Callable, Iterator

import pytest

from orchestrator.data.sources import ensure_sources
from orchestrator.errors import RushesError
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import Store, join_uri, open_store
from orchestrator.train.worker import run
from tests.chaos.runs import CHECKPOINTS, STAGE, Result, result_of, saved
from tests.groups import leave_group
from tests.tiny import tiny_recipe
from tests.train.workers import Recorded, job_of

pytestmark = [pytest.mark.chaos, pytest.mark.s3]

STOPPED_AT = 5  # of 6 steps, with checkpoints at 4 and 5


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    yield
    leave_group()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = tiny_recipe(tmp_path_factory.mktemp("damage"))
    ensure_sources(recipe, on_clips=lambda *_: None)
    return recipe


@pytest.fixture(scope="module")
def straight(recipe: Recipe) -> Result:
    """Of a run that nobody stopped."""
    uri = join_uri(recipe.runs, "straight")
    assert train(recipe, uri).kinds()
    return result_of(open_store(uri))


@pytest.fixture(scope="module")
def stopped(recipe: Recipe) -> Store:
    """A run that was stopped and saved, to be copied."""
    uri = join_uri(recipe.runs, "stopped")
    train(recipe, uri, stop_after=STOPPED_AT)
    return open_store(uri)


@pytest.fixture
def copy(stopped: Store, bucket: str) -> Store:
    """The stopped run in a place of its own."""
    store = open_store(bucket)
    for key in stopped.list(""):
        store.put(key, stopped.get(key))
    assert saved(store) == [5, 4]
    return store


def train(recipe: Recipe, uri: str, *, stop_after: int | None = None) -> Recorded:
    """Trains to the end, or to a stop."""
    hooks = Recorded(stop_after=stop_after)
    try:
        run(job_of(recipe, STAGE, run_uri=uri), hooks=hooks)
    finally:
        leave_group()
    return hooks


def said(hooks: Recorded) -> list[str]:
    return [event["text"] for event in hooks.events if event["kind"] == "note"]


def truncate(store: Store, key: str) -> None:
    store.put(key, store.get(key)[:-7])


def empty(store: Store, key: str) -> None:
    store.put(key, b"")


def flip(store: Store, key: str) -> None:
    raw = bytearray(store.get(key))
    raw[len(raw) // 2] ^= 1
    store.put(key, bytes(raw))


def remove(store: Store, key: str) -> None:
    store.delete(key)


Damage = Callable[[Store, str], None]
DAMAGES = [truncate, empty, flip, remove]
FILES = ["rank-", "index.json", "COMMIT"]


def spoil(store: Store, *, steps: list[int], file: str, damage: Damage) -> None:
    """Damages one file of each of some checkpoints."""
    for step in steps:
        (key,) = store.list(f"{CHECKPOINTS}/step-{step:08d}/{file}")
        damage(store, key)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_the_newest_is_damaged_and_the_run_ends_the_same(
    copy: Store, recipe: Recipe, straight: Result, file: str, damage: Damage
) -> None:
    spoil(copy, steps=[5], file=file, damage=damage)
    notes = said(train(recipe, copy.uri))
    assert any(note.startswith("goes on from step 4,") for note in notes)
    aside = [note for note in notes if note.startswith("put aside checkpoint of step 5: ")]
    is_there = (file, damage) != ("COMMIT", remove)  # a checkpoint without COMMIT does not exist
    assert len(aside) == is_there
    assert all(file in note for note in aside)
    assert result_of(copy) == straight


@pytest.mark.parametrize("damage", DAMAGES)
def test_all_are_damaged_and_the_run_starts_over_once_they_are_deleted(
    copy: Store, recipe: Recipe, straight: Result, damage: Damage
) -> None:
    spoil(copy, steps=[4, 5], file="rank-", damage=damage)
    before = copy.list("")
    with pytest.raises(RushesError, match=r"no checkpoint is whole.*step 5: .*step 4: ") as error:
        train(recipe, copy.uri)
    assert "\n" not in str(error.value)
    assert "delete the folder to start from step 0" in str(error.value)
    assert copy.list("") == sorted({*before, f"stages/{STAGE}/owner.json"})
    copy.delete_prefix(f"{CHECKPOINTS}/")
    assert not [note for note in said(train(recipe, copy.uri)) if "goes on" in note]
    assert result_of(copy) == straight
