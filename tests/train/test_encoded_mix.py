"""A mix that is encoded is a mix of encoded sources: its order, what it shares, its damage."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from orchestrator.data.stream import Stream
from orchestrator.data.validate import validate_clips
from orchestrator.errors import UserError
from orchestrator.launch.audit import audit_run, print_audit
from orchestrator.recipe.digest import recipe_tree
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import open_store
from orchestrator.train.encode_plan import plan_encode
from orchestrator.train.job import StageJob
from orchestrator.train.latents import ENCODED, latents_uri
from orchestrator.train.randomness import seed_of
from orchestrator.train.ranks import Ranks
from orchestrator.train.sources import clips_of, open_stream
from orchestrator.train.worker import run
from tests.data.clips import flip_bit_in_place, write_source
from tests.groups import leave_group
from tests.tiny import STEPS, tiny_tree
from tests.train.encoding import (
    contents,
    encode,
    encode_job,
    encoding_recipe,
    finish,
    index_of,
    is_done,
    notes,
    progress,
    refuse,
)
from tests.train.workers import Recorded

pytestmark = pytest.mark.usefixtures("one_process")

ALONE = Ranks(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
# Two shards each; both sources have clips of nine frames.
CLIPS = {
    "films": {(9, 32, 32): 7},
    "stills": {(1, 32, 32): 5, (9, 32, 32): 2},
    "others": {(1, 32, 32): 6},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all sources."""
    folder = tmp_path_factory.mktemp("sources")
    for name, shapes in CLIPS.items():
        write_source(str(folder / name), shapes)
    return folder


def mixed_recipe(source: Path, **folders: str) -> Recipe:
    """The tiny recipe over films, which weigh three times as much, and stills."""
    tree = tiny_tree(source)
    uris = {name: f"{source}/{folders.get(name, name)}" for name in ("films", "stills")}
    mix = {"films": {"uri": uris["films"], "weight": 3}, "stills": {"uri": uris["stills"]}}
    tree["data"] |= {"audit": True, "train": {"mix": mix}}
    dit = next(stage for stage in tree["stages"] if stage["id"] == "dit")
    del dit["train"]["preview"]
    return parse_recipe(tree, origin="mixed")


def mixed_job(source: Path, folder: Path, *, name: str, **folders: str) -> StageJob:
    """The encode stage of a run, and what else of the run an audit reads."""
    job = encode_job(mixed_recipe(source, **folders), f"{folder}/runs/{name}")
    tree = {"recipe": recipe_tree(job.recipe)}
    open_store(job.run).put("recipe.json", json.dumps(tree).encode())
    return job


def dit_of(job: StageJob) -> StageJob:
    return job.model_copy(update={"stage": "dit"})


def curve(job: StageJob) -> list[float]:
    text = (Path(job.run) / "stages/dit/metrics.jsonl").read_text()
    return [json.loads(line)["loss"] for line in text.splitlines()]


def told(job: StageJob) -> list[str]:
    console = Console(record=True, width=100)
    print_audit(audit_run(job.run, on_steps=lambda *_: None), console=console)
    return console.export_text().splitlines()


def drawn(stream: Stream, *, steps: int) -> list[tuple[Any, ...]]:
    """Shape, sources and keys of every step."""
    with closing(stream):
        batches = [stream.next() for _ in range(steps)]
    return [(batch.plan.bucket, batch.parts, batch.keys) for batch in batches]


def test_latents_of_a_mix_come_in_the_order_of_its_pixels(source: Path, tmp_path: Path) -> None:
    job = mixed_job(source, tmp_path, name="one")
    events = encode(job, logs=tmp_path)
    assert notes(events) == []
    assert progress(events) == [(number, 4) for number in range(1, 5)]
    recipe = job.recipe
    parts = clips_of(recipe, recipe.stage("autoencoder"), run=job.run)
    pixels = Stream(parts, seed=seed_of(recipe.seed, "dit", "order"), batch=4, rank=0, world_size=1)
    latents = drawn(open_stream(dit_of(job), ranks=ALONE), steps=20)
    assert latents == drawn(pixels, steps=20)
    seen = [part for _, parts, _ in latents for part in parts]
    assert seen.count("films") / len(seen) == pytest.approx(0.75, abs=0.05)


def test_training_on_an_encoded_mix_goes_on_exactly_and_is_audited_by_source(
    source: Path, tmp_path: Path
) -> None:
    straight, stopped = (mixed_job(source, tmp_path, name=name) for name in ("one", "two"))
    for job in (straight, stopped):
        encode(job, logs=tmp_path)
    assert run(dit_of(straight), hooks=Recorded()).status == "done"
    leave_group()
    assert run(dit_of(stopped), hooks=Recorded(stop_after=3)).step == 3
    leave_group()
    assert run(dit_of(stopped), hooks=Recorded()).status == "done"
    assert len(curve(straight)) == STEPS
    assert curve(stopped) == curve(straight)
    first, shares, *epochs = told(stopped)
    assert told(straight) == [first, shares, *epochs]
    assert first == f"dit: {STEPS} steps on 1 reader(s), {4 * STEPS} clips"
    assert shares.startswith("  films ")
    assert {line.partition(": ")[0] for line in epochs} == {
        "  films 9x32x32",
        "  stills 1x32x32",
        "  stills 9x32x32",
    }


def test_a_part_that_was_encoded_before_is_not_encoded_again_and_a_changed_one_is(
    source: Path, tmp_path: Path
) -> None:
    encode(mixed_job(source, tmp_path, name="one"), logs=tmp_path)
    before = contents(tmp_path / "runs" / ENCODED)
    changed = mixed_job(source, tmp_path, name="two", stills="others")
    assert {unit["part"] for unit in plan_encode(changed).units} == {"stills"}
    events = encode(changed, logs=tmp_path)
    assert notes(events) == ["films: 2 of 2 shards were encoded before"]
    assert progress(events) == [(2, 4), (3, 4), (4, 4)]
    after = contents(tmp_path / "runs" / ENCODED)
    assert before.items() < after.items()
    assert len(index_of(changed, part="stills")) == 6
    # A source is the same whether it is mixed or not.
    tree = tiny_tree(source)["data"] | {"train": {"uri": f"{source}/films"}}
    alone = encode_job(encoding_recipe(source, data=tree), f"{tmp_path}/runs/alone")
    assert notes(encode(alone, logs=tmp_path)) == ["2 of 2 shards were encoded before"]
    assert contents(tmp_path / "runs" / ENCODED) == after
    assert index_of(alone).digest == index_of(changed, part="films").digest


def test_a_damaged_part_is_found_and_a_lost_one_encoded_again(source: Path, tmp_path: Path) -> None:
    job = mixed_job(source, tmp_path, name="one")
    encode(job, logs=tmp_path)
    store = finish(job)
    assert is_done(job, store)
    stills = index_of(job, part="stills")
    digest, (member, *_) = stills.digest, stills.sample(0).members
    shard = Path(stills.store.uri) / stills.shard(0)
    flip_bit_in_place(shard, offset=member.offset + member.size // 2)
    assert not validate_clips(index_of(job, part="films"), on_clips=lambda *_: None).faults
    assert validate_clips(stills, on_clips=lambda *_: None).faults
    with pytest.raises(UserError, match=rf"{shard.name}.*clip-000\.latent\.npy is damaged"):
        drawn(open_stream(dit_of(job), ranks=ALONE), steps=20)
    shard.unlink()
    assert not is_done(job, store)
    assert notes(encode(job, logs=tmp_path)) == [
        "films: 2 of 2 shards were encoded before",
        "stills: 1 of 2 shards were encoded before",
    ]
    assert is_done(job, store)
    assert index_of(job, part="stills").digest == digest
    assert len(drawn(open_stream(dit_of(job), ranks=ALONE), steps=20)) == 20


def test_where_nothing_may_be_shared_each_part_has_a_folder_of_the_run(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, call="put")
    job = mixed_job(source, tmp_path, name="one")
    said = notes(encode(job, logs=tmp_path))
    assert [note.partition(": ")[0] for note in said] == ["films", "stills"]
    assert all(note.endswith("kept in the run's own folder") for note in said)
    for part in ("films", "stills"):
        index = index_of(job, part=part)
        assert index.store.uri == latents_uri(job.run, stage="encode", part=part)
        assert not validate_clips(index, on_clips=lambda *_: None).faults
    assert is_done(job, finish(job))
