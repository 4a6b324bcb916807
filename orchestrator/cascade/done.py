"""The last file of a stage: from what it was made, and what came of it."""

import hashlib
import json
from typing import Any

from orchestrator.errors import UserError
from orchestrator.recipe.data import TRAIN
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.storage.json_files import read_json
from orchestrator.storage.store import Store
from orchestrator.train.latents import lacks_shards

REPORT = "report.json"


def read_done(store: Store, *, stage: str) -> dict[str, Any] | None:
    """A finished stage's digests, or None."""
    key = f"stages/{stage}/DONE"
    return read_json(store, key) if store.exists(key) else None


def is_finished(store: Store, recipe: Recipe, stage: Stage, *, inputs: str) -> bool:
    """Whether a stage need not run: it is done, and what others have yet to read of it is there.

    Args:
        store: the run's folder.
        recipe: what is run.
        stage: of it.
        inputs: digest of what the stage is made from now.

    Raises:
        UserError: if it was finished from other inputs.
    """
    done = read_done(store, stage=stage.id)
    if done is None:
        return False
    if done["input"] != inputs:
        raise UserError(
            f"stages.{stage.id}: finished from other inputs in {store.uri}; wanted the same recipe "
            "and clips, or another --run"
        )
    readers = [one.id for one in recipe.stages if one.latents == stage.id]
    is_read = any(read_done(store, stage=one) is None for one in readers)
    parts = recipe.data.parts(TRAIN)
    return not (is_read and lacks_shards(store, stage=stage.id, parts=parts))


def write_done(store: Store, *, stage: str, inputs: str, output: str, step: int) -> None:
    """Marks a stage as finished; nothing of it is written after this."""
    done = {"input": inputs, "output": output, "step": step}
    store.put(f"stages/{stage}/DONE", json.dumps(done).encode())


def output_digest(store: Store, *, stage: str, events: list[dict[str, Any]]) -> str:
    """Digest of a stage's result: of its weights, of its index, or of its report."""
    for event in reversed(events):
        if event["kind"] == "model":
            return event["sha256"]
        if event["kind"] == "dataset" and event["context"] == "output":
            return event["digest"]
    return hashlib.sha256(store.get(f"stages/{stage}/{REPORT}")).hexdigest()
