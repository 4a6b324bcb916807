"""What one run has encoded no other run encodes again, and nothing else is taken for it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from orchestrator.cascade.done import write_done
from orchestrator.data.index import HEAD, TABLE, Index, write_index
from orchestrator.data.reader import Reader
from orchestrator.data.shards import read_written, shard_name, write_shard
from orchestrator.data.validate import validate_clips
from orchestrator.errors import UserError
from orchestrator.storage.store import Store, open_store
from orchestrator.train.encode import Encoder
from orchestrator.train.encode_plan import MADE_OF, plan_encode
from orchestrator.train.job import StageJob
from orchestrator.train.latents import ENCODED, latents_uri
from tests.data.clips import PER_SHARD, new_clip
from tests.models.test_text_pretrained import save_t5
from tests.train.encoding import (
    CLIPS,
    SHARDS,
    contents,
    encode,
    encode_job,
    encoding_recipe,
    finish,
    index_of,
    is_done,
    key_of,
    notes,
    progress,
    refuse,
    write_clips,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_clips(folder)
    return folder


@pytest.fixture
def job_in(source: Path, tmp_path: Path) -> Callable[..., StageJob]:
    """Encode stages of runs by name, below a folder of this test's own."""

    def job_in(name: str, **kinds: Any) -> StageJob:
        return encode_job(encoding_recipe(source), f"{tmp_path}/runs/{name}", **kinds)

    return job_in


def test_a_run_keeps_an_index_and_the_runs_share_the_shards(
    job_in: Callable[..., StageJob], tmp_path: Path
) -> None:
    job = job_in("one")
    events = encode(job, logs=tmp_path)
    assert notes(events) == []
    assert progress(events) == [(number, SHARDS) for number in range(1, SHARDS + 1)]
    assert sorted(open_store(latents_uri(job.run, stage="encode")).list("")) == [HEAD, TABLE]
    index = index_of(job)
    index.check_shards()
    assert len(index.shards) == SHARDS
    assert [index.sample(row).key for row in range(len(index))] == [
        f"clip-{number:03d}" for number in range(sum(CLIPS.values()))
    ]
    assert index.store.uri == f"{tmp_path}/runs/{ENCODED}/{key_of(job)}"
    assert not validate_clips(index, on_clips=lambda *_: None).faults


def test_a_second_run_encodes_nothing(job_in: Callable[..., StageJob], tmp_path: Path) -> None:
    first, second = job_in("one"), job_in("two")
    encode(first, logs=tmp_path)
    before = contents(tmp_path / "runs" / ENCODED)
    events = encode(second, logs=tmp_path)
    assert notes(events) == [f"{SHARDS} of {SHARDS} shards were encoded before"]
    assert progress(events) == [(SHARDS, SHARDS)]
    assert contents(tmp_path / "runs" / ENCODED) == before
    assert index_of(second).digest == index_of(first).digest
    assert index_of(second).shards == index_of(first).shards


def test_encoding_gives_equal_bytes(source: Path, tmp_path: Path) -> None:
    found = []
    for name in ("here", "there"):
        job = encode_job(encoding_recipe(source), f"{tmp_path}/{name}/run")
        encode(job, logs=tmp_path)
        files = contents(tmp_path / name / ENCODED)
        found.append({key: data for key, (data, _) in files.items()})
    assert found[0] == found[1]
    assert sum(key.endswith(".tar") for key in found[0]) == SHARDS


def test_clips_elsewhere_have_the_same_key(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source / "noise", tmp_path / "noise")
    keys = {
        key_of(encode_job(encoding_recipe(folder), f"{tmp_path}/runs/{number}"))
        for number, folder in enumerate((source, tmp_path))
    }
    assert len(keys) == 1


def write_changed(folder: Path, *, per_shard: int = PER_SHARD, **changes: Any) -> None:
    """The clips of ``write_clips`` again, with the first one changed, or cut into other shards."""
    buckets = [bucket for bucket, count in CLIPS.items() for _ in range(count)]
    clips = [new_clip(number, bucket) for number, bucket in enumerate(buckets)]
    clips[0] = replace(clips[0], **changes)
    store = open_store(str(folder / "noise"))
    parts = [clips[first : first + per_shard] for first in range(0, len(clips), per_shard)]
    shards = [write_shard(store, shard_name(number), part) for number, part in enumerate(parts)]
    write_index(store, shards, origin={})


@pytest.mark.parametrize(
    "changes",
    [
        {"members": new_clip(99, (9, 32, 32)).members},
        {"captions": ("another",)},
        {"labels": {"number": 99}},
        {"fps": 4.0},
        {"per_shard": PER_SHARD + 1},
    ],
)
def test_other_clips_have_another_key(source: Path, tmp_path: Path, changes: Any) -> None:
    write_changed(tmp_path)
    same = key_of(encode_job(encoding_recipe(tmp_path), f"{tmp_path}/runs/same"))
    assert same == key_of(encode_job(encoding_recipe(source), f"{tmp_path}/runs/one"))
    write_changed(tmp_path, **changes)
    other = key_of(encode_job(encoding_recipe(tmp_path), f"{tmp_path}/runs/other"))
    assert other != same


def test_other_weights_have_another_key(job_in: Callable[..., StageJob], tmp_path: Path) -> None:
    first, second = job_in("one"), job_in("two", seed=1)
    encode(first, logs=tmp_path)
    before = contents(tmp_path / "runs" / ENCODED)
    assert notes(encode(second, logs=tmp_path)) == []
    after = contents(tmp_path / "runs" / ENCODED)
    assert len(after) == 2 * len(before)
    assert before.items() <= after.items()
    assert index_of(second).digest != index_of(first).digest


def test_another_batch_or_device_has_another_key(job_in: Callable[..., StageJob]) -> None:
    job = job_in("one")
    keys = {key_of(job)}
    for change in ({"encode": {"batch": 3}}, {"compute": {"gpus_per_worker": 1}}):
        stages = tuple(
            stage.model_copy(
                update={
                    name: getattr(stage, name).model_copy(update=values)
                    for name, values in change.items()
                }
            )
            if stage.id == "encode"
            else stage
            for stage in job.recipe.stages
        )
        recipe = job.recipe.model_copy(update={"stages": stages})
        keys.add(key_of(job.model_copy(update={"recipe": recipe})))
    assert len(keys) == 3


def with_text(source: Path, path: str, **settings: Any) -> Any:
    return encoding_recipe(source, text={"kind": "t5", "path": path, "max_length": 32} | settings)


def test_another_text_encoder_has_another_key(source: Path, tmp_path: Path) -> None:
    save_t5(tmp_path / "t5")
    shutil.copytree(tmp_path / "t5", tmp_path / "moved")
    shutil.copytree(tmp_path / "t5", tmp_path / "tuned")
    weights = tmp_path / "tuned" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")

    def key(recipe: Any) -> str:
        return key_of(encode_job(recipe, f"{tmp_path}/runs/run"))

    plain = key(with_text(source, str(tmp_path / "t5")))
    assert plain == key(with_text(source, str(tmp_path / "moved")))
    others = [
        encoding_recipe(source),
        with_text(source, str(tmp_path / "tuned")),
        with_text(source, str(tmp_path / "t5"), max_length=16),
        with_text(source, str(tmp_path / "t5"), dtype="bfloat16"),
    ]
    assert len({plain, *map(key, others)}) == 1 + len(others)


def test_a_hub_name_has_another_key_once_its_revision_is_another(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    kept = tmp_path / "models--org--name"
    (kept / "refs").mkdir(parents=True)
    keys = []
    for revision in ("0" * 40, "1" * 40, "0" * 40):
        (kept / "refs" / "main").write_text(revision)
        (kept / "snapshots" / revision).mkdir(parents=True, exist_ok=True)
        (kept / "snapshots" / revision / "config.json").write_text('{"model_type": "t5"}')
        job = encode_job(with_text(source, "org/name"), f"{tmp_path}/runs/run")
        keys.append(key_of(job))
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]


def test_text_states_are_taken_over_with_the_latents(source: Path, tmp_path: Path) -> None:
    save_t5(tmp_path / "t5")
    recipe = with_text(source, str(tmp_path / "t5"))
    first, second = (encode_job(recipe, f"{tmp_path}/runs/{name}") for name in ("one", "two"))
    encode(first, logs=tmp_path)
    assert progress(encode(second, logs=tmp_path)) == [(SHARDS, SHARDS)]
    members = {member.ext for member in index_of(second).sample(0).members}
    assert members == {"latent.npy", "text0.npy", "text1.npy"}
    for job in (first, second):
        assert open_store(job.run).exists("stages/encode/text.json")


def test_what_a_stopped_stage_has_encoded_is_not_encoded_again(
    job_in: Callable[..., StageJob], tmp_path: Path
) -> None:
    job = job_in("one")
    encode(job, logs=tmp_path, stop_after=1)
    encoded = tmp_path / "runs" / ENCODED
    before = contents(encoded)
    assert not open_store(latents_uri(job.run, stage="encode")).list("")
    events = encode(job_in("two"), logs=tmp_path)  # whichever run goes on
    assert notes(events) == [f"1 of {SHARDS} shards were encoded before"]
    assert progress(events) == [(number, SHARDS) for number in range(1, SHARDS + 1)]
    after = contents(encoded)
    tars = {key: seen for key, seen in before.items() if not key.endswith(MADE_OF)}
    assert tars.items() <= after.items()


def test_two_runs_that_encode_at_once_do_each_shard_once(
    job_in: Callable[..., StageJob], tmp_path: Path
) -> None:
    jobs = [job_in("one"), job_in("two")]
    plans = [plan_encode(job) for job in jobs]
    assert [len(plan.units) for plan in plans] == [SHARDS, SHARDS]
    first, second = (Encoder(job) for job in jobs)
    assert [first(unit)["clips"] for unit in plans[0].units] == [PER_SHARD, PER_SHARD, 2]
    assert [second(unit)["clips"] for unit in plans[1].units] == [0, 0, 0]


def test_a_finished_stage_whose_shards_are_gone_is_encoded_again(
    job_in: Callable[..., StageJob], tmp_path: Path
) -> None:
    job = job_in("one")
    encode(job, logs=tmp_path)
    store, digest = finish(job), index_of(job).digest
    assert is_done(job, store)
    index_of(job).store.delete(index_of(job).shards[1])
    assert not is_done(job, store)
    events = encode(job, logs=tmp_path)
    assert notes(events) == [f"{SHARDS - 1} of {SHARDS} shards were encoded before"]
    assert is_done(job, store)
    shutil.rmtree(tmp_path / "runs" / ENCODED)
    assert not is_done(job, store)
    encode(job, logs=tmp_path)
    assert is_done(job, store)
    assert index_of(job).digest == digest


def test_shards_that_nobody_reads_any_more_may_be_gone(
    job_in: Callable[..., StageJob], tmp_path: Path
) -> None:
    job = job_in("one")
    encode(job, logs=tmp_path)
    store = finish(job)
    write_done(store, stage="dit", inputs="d" * 64, output="w" * 64, step=1)
    shutil.rmtree(tmp_path / "runs" / ENCODED)
    assert is_done(job, store)


def test_a_missing_shard_is_told_with_what_to_do(
    job_in: Callable[..., StageJob], tmp_path: Path
) -> None:
    job = job_in("one")
    encode(job, logs=tmp_path)
    index = index_of(job)
    shutil.rmtree(tmp_path / "runs" / ENCODED)
    reader = Reader(index, cache_dir=None, cache_bytes=0, memory_bytes=0)
    wanted = (
        rf"/{ENCODED}/.*/shard-000000-\w+\.tar: the shard is missing, wanted all 3 shards of the "
        r"index; rushes train encodes what is lost of stage encode again$"
    )
    with pytest.raises(UserError, match=wanted):
        reader.read(0)


@pytest.mark.parametrize("whole", [False, True])
def test_latents_of_an_earlier_version_are_used_where_they_are(
    job_in: Callable[..., StageJob], tmp_path: Path, whole: bool
) -> None:
    job = job_in("one")
    encode(job_in("model"), logs=tmp_path)
    model = index_of(job_in("model"))
    own = open_store(latents_uri(job.run, stage="encode"))
    age(model, own, shards=SHARDS if whole else 1)
    shutil.rmtree(tmp_path / "runs" / ENCODED)
    if whole:
        assert index_of(job).digest == model.digest
        assert is_done(job, finish(job))
        return
    before = contents(Path(own.uri))
    events = encode(job, logs=tmp_path)
    assert notes(events) == [f"1 of {SHARDS} shards were encoded before"]
    assert before.items() <= contents(Path(own.uri)).items()
    assert not (tmp_path / "runs" / ENCODED).exists()
    assert index_of(job).digest == model.digest
    assert is_done(job, finish(job))


def age(model: Index, own: Store, *, shards: int) -> None:
    """Leaves latents as stages did that kept their shards in the run, the index last."""
    written = []
    for number in range(shards):
        one = read_written(model.store, shard_name(number))
        name, described = shard_name(number), one.shard.model_copy()
        rows = [{**row, "shard": name} for row in one.rows]
        own.put(name, model.store.get(described.name))
        shard = described.model_copy(update={"name": name})
        told = {"shard": shard.model_dump(), "rows": rows}
        own.put(f"{name}.rows.json", json.dumps(told).encode())
        written.append(read_written(own, name))
    if shards == SHARDS:
        write_index(own, written, origin={"stage": "encode"})


@pytest.mark.parametrize("refused", ["list", "put"])
def test_where_nothing_may_be_shared_a_run_keeps_its_shards(
    job_in: Callable[..., StageJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    job = job_in("one")
    refuse(monkeypatch, call=refused)
    (said,) = notes(encode(job, logs=tmp_path))
    assert said.startswith(f"{tmp_path}/runs/{ENCODED}/")
    assert said.endswith("; so these shards are kept in the run's own folder")
    index = index_of(job)
    assert index.store.uri == latents_uri(job.run, stage="encode")
    assert not validate_clips(index, on_clips=lambda *_: None).faults
    assert is_done(job, finish(job))


def test_runs_may_be_moved_together_with_what_they_share(
    job_in: Callable[..., StageJob], tmp_path: Path
) -> None:
    encode(job_in("one"), logs=tmp_path)
    shutil.move(tmp_path / "runs", tmp_path / "elsewhere")
    moved = Index.open(latents_uri(f"{tmp_path}/elsewhere/one", stage="encode"))
    assert moved.store.uri.startswith(f"{tmp_path}/elsewhere/{ENCODED}/")
    assert not validate_clips(moved, on_clips=lambda *_: None).faults


def test_a_run_that_is_moved_alone_encodes_beside_its_new_place(
    job_in: Callable[..., StageJob], tmp_path: Path
) -> None:
    job = job_in("one")
    encode(job, logs=tmp_path)
    finish(job)
    shutil.move(tmp_path / "runs" / "one", tmp_path / "elsewhere" / "one")
    moved = job.model_copy(update={"run": f"{tmp_path}/elsewhere/one"})
    store = open_store(moved.run)
    assert not is_done(moved, store)
    assert notes(encode(moved, logs=tmp_path)) == []
    assert index_of(moved).store.uri.startswith(f"{tmp_path}/elsewhere/{ENCODED}/")
    assert is_done(moved, store)


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.s3)])
def runs(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for runs that is no folder."""
    if request.param == "s3":
        return request.getfixturevalue("bucket")
    return f"memory://bucket/{tmp_path.name}"


def test_runs_in_a_bucket_share_beside_them(source: Path, runs: str, tmp_path: Path) -> None:
    first, second = (encode_job(encoding_recipe(source), f"{runs}/{name}") for name in "ab")
    encode(first, logs=tmp_path)
    assert progress(encode(second, logs=tmp_path)) == [(SHARDS, SHARDS)]
    index = index_of(second)
    assert index.store.uri == f"{runs}/{ENCODED}/{key_of(second)}"
    reader = Reader(index, cache_dir=str(tmp_path / "c"), cache_bytes=10**9, memory_bytes=0)
    assert reader.read(0)[1]["latent"].shape == (4, 3, 4, 4)
    store = finish(second)
    assert is_done(second, store)
    index.store.delete_prefix("shard-")
    assert not is_done(second, store)
