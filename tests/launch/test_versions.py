"""A stage that changes before it is done: nothing of its earlier version is taken up or lost."""

import json
from pathlib import Path

import pytest

from orchestrator.cascade.versions import claim
from orchestrator.recipe.train import Save
from orchestrator.storage.store import Store, open_store
from orchestrator.train.checkpoint.format import INDEX, VERSION, Commit, describe, folder
from orchestrator.train.checkpoint.steps import committed, prune

OLD, NEW = "a" * 64, "b" * 64
CHECKPOINTS = "stages/dit/checkpoints"
METRICS = "stages/dit/metrics.jsonl"
HEALTH = "stages/dit/health.json"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


def save(store: Store, *, step: int, text: str) -> None:
    """A checkpoint as far as COMMIT and index go."""
    target = folder(CHECKPOINTS, step=step)
    index = text.encode()
    commit = Commit(version=VERSION, step=step, files={INDEX: describe(index)})
    store.put(f"{target}/{INDEX}", index)
    store.put(f"{target}/COMMIT", commit.to_bytes())
    store.put(METRICS, json.dumps({"step": step, "of": text}).encode())
    store.put(HEALTH, json.dumps({"left_out": [step], "of": text}).encode())


def steps(store: Store) -> list[int]:
    return committed(store, CHECKPOINTS)


def test_the_same_version_goes_on_with_its_work(store: Store) -> None:
    assert claim(store, stage="dit", inputs=OLD) is None
    save(store, step=10, text="old")
    assert claim(store, stage="dit", inputs=OLD) is None
    assert steps(store) == [10]
    assert b"old" in store.get(METRICS)


def test_another_version_starts_over_and_says_so(store: Store) -> None:
    claim(store, stage="dit", inputs=OLD)
    for step in (10, 20):
        save(store, step=step, text="old")
    said = claim(store, stage="dit", inputs=NEW)
    assert said is not None
    assert "checkpoints up to step 20 are put aside and it starts from step 0" in said
    assert steps(store) == []
    assert not store.exists(METRICS)
    assert not store.exists(HEALTH)


def test_the_earlier_recipe_takes_its_work_up_again(store: Store) -> None:
    claim(store, stage="dit", inputs=OLD)
    for step in (10, 20):
        save(store, step=step, text="old")
    claim(store, stage="dit", inputs=NEW)
    save(store, step=5, text="new")
    claim(store, stage="dit", inputs=OLD)
    assert steps(store) == [20, 10]
    assert b"old" in store.get(METRICS)
    claim(store, stage="dit", inputs=NEW)
    assert steps(store) == [5]
    assert b"new" in store.get(METRICS)
    assert b"new" in store.get(HEALTH)


def test_a_checkpoint_that_another_version_wrote_over_does_not_come_back(store: Store) -> None:
    claim(store, stage="dit", inputs=OLD)
    for step in (10, 20):
        save(store, step=step, text="old")
    claim(store, stage="dit", inputs=NEW)
    save(store, step=20, text="new")
    prune(store, CHECKPOINTS, save=Save(keep=1))  # as the saver does
    claim(store, stage="dit", inputs=OLD)
    assert steps(store) == []


class CrashError(Exception):
    """The driver was killed."""


def test_a_driver_killed_in_between_mixes_no_versions(store: Store) -> None:
    """Killed before every write and deletion in turn; then either recipe is started."""

    class Killed:
        def __init__(self, calls: int) -> None:
            self._left = calls

        def __getattr__(self, name: str):
            if name in ("put", "delete"):
                self._left -= 1
                if self._left < 0:
                    raise CrashError
            return getattr(store, name)

    for calls in range(20):
        for next_version, text, wanted in ((OLD, b"old", [20, 10]), (NEW, b"new", [5])):
            store.delete_prefix("stages/")
            claim(store, stage="dit", inputs=OLD)
            for step in (10, 20):
                save(store, step=step, text="old")
            claim(store, stage="dit", inputs=NEW)
            save(store, step=5, text="new")
            try:
                claim(Killed(calls), stage="dit", inputs=OLD)  # pyright: ignore[reportArgumentType]
            except CrashError:
                pass
            else:
                assert calls > 5
            claim(store, stage="dit", inputs=next_version)
            assert steps(store) == wanted, (calls, next_version)
            assert text in store.get(METRICS), (calls, next_version)
            assert text in store.get(HEALTH), (calls, next_version)


def test_latents_of_another_version_are_encoded_again(store: Store) -> None:
    claim(store, stage="encode", inputs=OLD)
    store.put("stages/encode/latents/shard-000000.tar.rows.json", b"[]")
    assert (
        claim(store, stage="encode", inputs=NEW) == "changed since its last start: it starts over"
    )
    assert store.list("stages/encode/latents/") == []


def test_work_of_a_worker_without_a_driver_is_taken_up(store: Store) -> None:
    save(store, step=10, text="by torchrun")
    assert claim(store, stage="dit", inputs=OLD) is None
    assert steps(store) == [10]
