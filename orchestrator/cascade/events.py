"""What the first events of a run and of its stages say."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.recipe.digest import recipe_digest
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage

Events = list[dict[str, Any]]


def run_event(recipe: Recipe, *, run: str, attempt: int) -> dict[str, Any]:
    """The start of a run: its recipe without the stages, and which start of it this is."""
    params = recipe.model_dump(mode="json", exclude={"stages", "tracking", "price"})
    tags = {"run": run, "digest": recipe_digest(recipe), "attempt": attempt}
    return {"kind": "run", "name": recipe.name, "params": params, "tags": tags}


def gang_started(stage: str, *, workers: int) -> dict[str, Any]:
    """All workers of a gang have their place; what they say comes after this."""
    return {
        "kind": "gang",
        "stage": stage,
        "what": "started",
        "workers": workers,
        "time": time.time(),
    }


def gang_ending(stage: str, *, failed: bool) -> dict[str, Any]:
    """The moment at which a gang was seen to have ended, or lost a worker."""
    return {"kind": "gang", "stage": stage, "what": "ending", "failed": failed, "time": time.time()}


def gang_gone(stage: str) -> dict[str, Any]:
    """No worker of a gang is left."""
    return {"kind": "gang", "stage": stage, "what": "gone", "time": time.time()}


def stage_event(stage: Stage, *, inputs: str) -> dict[str, Any]:
    """The start of a stage; ``inputs`` is the digest of what it is made from."""
    params = stage.model_dump(mode="json", exclude_none=True)
    tags = {"kind": stage.kind, "inputs": inputs}
    return {"kind": "stage", "stage": stage.id, "params": params, "tags": tags}


def encode_started(stage: str, *, found: int, shards: int, notes: Sequence[str]) -> Events:
    """What an encode stage found, and how far it is with that."""
    told: Events = [{"kind": "note", "stage": stage, "text": note} for note in notes]
    return [*told, encode_progress(stage, done=0, found=found, shards=shards)] if found else told


def encode_progress(stage: str, *, done: int, found: int, shards: int) -> dict[str, Any]:
    """So many shards are encoded by this start, of so many in all, besides those that it found."""
    return {
        "kind": "progress",
        "stage": stage,
        "step": found + done,
        "steps": shards,
        "found": found,
    }


def dataset_events(
    recipe: Recipe, stage: Stage, *, data: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The clips that a stage reads; none for one that reads latents."""
    if stage.latents is not None:
        return []
    return [
        {
            "kind": "dataset",
            "stage": stage.id,
            "name": f"{recipe.name}-{name}",
            "uri": recipe.data.sources[name].uri,
            "digest": data[name],
            "context": "evaluation" if stage.evaluate else "training",
        }
        for name in recipe.reads(stage)
    ]
