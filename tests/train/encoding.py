"""Runs that have clips and the weights of an autoencoder, so that they can encode at once."""

import threading
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from models.sora.autoencoder import VideoAutoencoder
from orchestrator.cascade.local_executor import LocalExecutor
from orchestrator.data.index import Index
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import open_store
from orchestrator.train.job import StageJob
from orchestrator.train.latents import latents_uri
from orchestrator.train.weights import WEIGHTS
from tests.data.clips import write_source
from tests.tiny import tiny_tree

CLIPS = {(9, 32, 32): 6, (1, 32, 32): 4}  # three shards, one of them of both shapes
SHARDS = 3


def encoding_recipe(folder: Path, **changes: Any) -> Recipe:
    """The tiny recipe over the clips of ``write_clips``, with other top-level fields."""
    tree = tiny_tree(folder)
    tree["data"]["train"] = {"uri": str(folder / "noise")}
    return parse_recipe(tree | changes, origin="tiny")


def write_clips(folder: Path) -> Index:
    """What ``encoding_recipe`` encodes."""
    return write_source(str(folder / "noise"), CLIPS)


def encode_job(recipe: Recipe, run: str, *, seed: int = 0) -> StageJob:
    """The encode stage of a run whose autoencoder has the weights of that seed."""
    torch.manual_seed(seed)
    network = VideoAutoencoder(recipe.stage("autoencoder").training.autoencoder)
    open_store(run).put(f"stages/autoencoder/{WEIGHTS}", save(network.state_dict()))
    return StageJob(recipe=recipe, stage="encode", run=run, attempt=1)


def encode(job: StageJob, *, logs: Path, stop_after: int | None = None) -> list[dict[str, Any]]:
    """Runs the stage in this process, to its end or to the end of so many shards; its events."""
    events: list[dict[str, Any]] = []
    stop = threading.Event()

    def on_event(event: dict[str, Any]) -> None:
        events.append(event)
        if event["kind"] == "progress" and event["step"] - event["found"] == stop_after:
            stop.set()

    result = LocalExecutor(logs=logs).run(job, on_event=on_event, stop=stop)
    assert result.status == ("done" if stop_after is None else "stopped")
    return events


def notes(events: list[dict[str, Any]]) -> list[str]:
    """What the user was told."""
    return [event["text"] for event in events if event["kind"] == "note"]


def progress(events: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Encoded and all shards, whenever they were told."""
    return [(event["step"], event["steps"]) for event in events if event["kind"] == "progress"]


def index_of(job: StageJob) -> Index:
    """What the stage has made."""
    return Index.open(latents_uri(job.run, stage=job.stage))
