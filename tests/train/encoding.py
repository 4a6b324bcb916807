"""Runs that have clips and the weights of an autoencoder, so that they can encode at once."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from models.sora.autoencoder import VideoAutoencoder
from orchestrator.cascade.done import is_finished, write_done
from orchestrator.cascade.local_executor import LocalExecutor
from orchestrator.data.index import Index
from orchestrator.errors import UserError
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.folder import FolderStore
from orchestrator.storage.store import Store, open_store
from orchestrator.train.encode_plan import plan_encode
from orchestrator.train.job import StageJob
from orchestrator.train.latents import ENCODED, latents_uri
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


def index_of(job: StageJob, *, part: str = "") -> Index:
    """What the stage has made, or of one source of a mix."""
    return Index.open(latents_uri(job.run, stage=job.stage, part=part))


def key_of(job: StageJob) -> str:
    """What the content of its shards is called, of a source that is alone."""
    (part,) = plan_encode(job).parts
    return part.key


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder: its bytes, and when it was written."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in files
    }


def finish(job: StageJob) -> Store:
    """Marks an encode stage as done, as the driver does."""
    store = open_store(job.run)
    write_done(store, stage=job.stage, inputs="i" * 64, output="o" * 64, step=SHARDS)
    return store


def is_done(job: StageJob, store: Store) -> bool:
    """Whether the stage need not run."""
    return is_finished(store, job.recipe, job.spec, inputs="i" * 64)


def refuse(patch: pytest.MonkeyPatch, *, call: str) -> None:
    """Whoever may not do this with what runs share, as a policy of a bucket may say."""
    allowed = getattr(FolderStore, call)

    def may(self: FolderStore, key: str, *data: bytes) -> Any:
        if f"/{ENCODED}/" in self.uri:
            raise UserError(f"{self.uri}/{key}: access denied")
        return allowed(self, key, *data)

    patch.setattr(FolderStore, call, may)
