"""A stage is trained by one worker, can be stopped at any step, and goes on as if it had not."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from orchestrator.data.index import Index
from orchestrator.data.reader import Reader
from orchestrator.data.sources import ensure_sources
from orchestrator.errors import UnavailableError, UserError
from orchestrator.recipe.digest import recipe_digest
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.folder import FolderStore
from orchestrator.train.checkpoint.save import Saver
from orchestrator.train.checkpoint.snapshot import HostBuffers, HostFile
from orchestrator.train.encode import Encoder, finish_encode
from orchestrator.train.encode_plan import plan_encode
from orchestrator.train.evaluate import evaluate, evaluate_stage
from orchestrator.train.job import StageResult
from orchestrator.train.randomness import happens_at
from orchestrator.train.saves import MAX_LOST
from orchestrator.train.worker import run
from tests.groups import leave_group
from tests.tiny import STEPS, tiny_recipe, tiny_tree
from tests.train.workers import Recorded, job_of

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worker")
    recipe = tiny_recipe(folder)
    ensure_sources(recipe, on_clips=lambda *_: None)
    for stage in ("autoencoder", "encode", "dit"):
        finish_stage(recipe, stage, run_uri=f"{folder}/straight")
        leave_group()
    return folder


def finish_stage(recipe: Recipe, stage: str, *, run_uri: str) -> Recorded:
    hooks = Recorded()
    job = job_of(recipe, stage, run_uri=run_uri)
    if stage == "encode":
        encoder, plan = Encoder(job), plan_encode(job)
        for unit in plan.units:
            encoder(unit)
        finish_encode(job, plan)
    else:
        assert run(job, hooks=hooks).status == "done"
    return hooks


def link_upstream(folder: Path, *, run_name: str) -> None:
    stages = folder / run_name / "stages"
    stages.mkdir(parents=True)
    for stage in ("autoencoder", "encode"):
        (stages / stage).symlink_to(folder / "straight" / "stages" / stage)


def curve(folder: Path, run_name: str, stage: str) -> list[tuple[int, float]]:
    lines = (folder / run_name / "stages" / stage / "metrics.jsonl").read_text().splitlines()
    return [(one["step"], one["loss"]) for one in map(json.loads, lines)]


def weights(folder: Path, run_name: str, stage: str) -> dict[str, torch.Tensor]:
    return load_file(folder / run_name / "stages" / stage / "weights" / "ema.safetensors")


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_stopped_autoencoder_goes_on_bitwise(folder: Path, stop_after: int) -> None:
    name = f"stopped-{stop_after}"
    job = job_of(tiny_recipe(folder), "autoencoder", run_uri=f"{folder}/{name}")
    first = run(job, hooks=Recorded(stop_after=stop_after))
    assert (first.status, first.step) == ("stopped", stop_after)
    again = Recorded()
    assert run(job, hooks=again).status == "done"
    assert "note" in again.kinds()
    assert curve(folder, name, "autoencoder") == curve(folder, "straight", "autoencoder")
    straight = weights(folder, "straight", "autoencoder")
    for key, value in weights(folder, name, "autoencoder").items():
        assert torch.equal(value, straight[key]), key


def test_a_stopped_denoiser_goes_on_bitwise(folder: Path) -> None:
    name = "stopped-dit"
    link_upstream(folder, run_name=name)
    job = job_of(tiny_recipe(folder), "dit", run_uri=f"{folder}/{name}")
    assert run(job, hooks=Recorded(stop_after=3)).step == 3
    assert run(job, hooks=Recorded()).status == "done"
    assert curve(folder, name, "dit") == curve(folder, "straight", "dit")
    straight = weights(folder, "straight", "dit")
    for key, value in weights(folder, name, "dit").items():
        assert torch.equal(value, straight[key]), key


def test_a_log_that_was_damaged_does_not_keep_a_checkpoint_from_being_used(folder: Path) -> None:
    job = job_of(tiny_recipe(folder), "autoencoder", run_uri=f"{folder}/damaged-log")
    run(job, hooks=Recorded(stop_after=4))
    path = folder / "damaged-log" / "stages" / "autoencoder" / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20] + b"\n")
    again = Recorded()
    assert run(job, hooks=again).status == "done"
    said = [event["text"] for event in again.events if event["kind"] == "note"]
    assert f"damaged lines of {path}: 1, left out" in said
    steps = [step for step, *_ in curve(folder, "damaged-log", "autoencoder")]
    assert steps == [1, 2, 3, *range(5, STEPS + 1)]
    straight = weights(folder, "straight", "autoencoder")
    for key, value in weights(folder, "damaged-log", "autoencoder").items():
        assert torch.equal(value, straight[key]), key


def test_a_checkpoint_says_what_made_it(folder: Path) -> None:
    path = folder / "straight" / "stages" / "dit" / "checkpoints" / f"step-{STEPS:08d}"
    made_by = json.loads((path / "index.json").read_text())["extra"]["made_by"]
    assert made_by["recipe"] == recipe_digest(tiny_recipe(folder))
    assert made_by["torch"] == torch.__version__


def test_every_step_is_logged_once(folder: Path) -> None:
    steps = [step for step, _ in curve(folder, "straight", "dit")]
    assert steps == list(range(1, STEPS + 1))


def test_a_denoiser_says_what_it_does(folder: Path) -> None:
    job = job_of(tiny_recipe(folder), "dit", run_uri=f"{folder}/straight")
    hooks = Recorded()
    assert run(job, hooks=hooks).status == "done"
    assert {"note", "model"} <= hooks.kinds()
    metrics = (folder / "straight/stages/dit/metrics.jsonl").read_text().splitlines()[-1]
    wanted = {"loss", "lr", "grad_norm/denoiser", "clips_per_s", "tokens_per_s", "model_tflops"}
    assert wanted | {"data_wait_s", "memory_mib"} <= set(json.loads(metrics))
    samples = list((folder / "straight/stages/dit/samples").iterdir())
    assert {path.suffix for path in samples} == {".gif", ".mp4", ".png"}


def test_speed_is_of_what_each_step_saw(folder: Path) -> None:
    recipe = tiny_recipe(folder)
    stage = recipe.stage("dit")
    factors = recipe.autoencoder_config(stage)
    frames, (height, width) = stage.training.clip.frames, stage.training.clip.size
    of_one_frame = (height // factors.space_factor // 2) * (width // factors.space_factor // 2)
    of_a_clip = ((frames - 1) // factors.time_factor + 1) * of_one_frame
    images = [happens_at(step, share=stage.training.image_share) for step in range(STEPS)]
    assert len(set(images)) == 2
    lines = (folder / "straight/stages/dit/metrics.jsonl").read_text().splitlines()
    tokens, flops = zip(
        *(
            (row["tokens_per_s"] / row["clips_per_s"], row["model_tflops"] / row["clips_per_s"])
            for row in map(json.loads, lines)
        ),
        strict=True,
    )
    assert tokens == pytest.approx([of_one_frame if one else of_a_clip for one in images])
    most_of_images = max(value for value, one in zip(flops, images, strict=True) if one)
    assert most_of_images < min(value for value, one in zip(flops, images, strict=True) if not one)


def test_training_outlasts_a_save_that_the_store_does_not_take(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = FolderStore.put

    def away(self: FolderStore, key: str, data: bytes | memoryview) -> None:
        if "step-00000002/rank" in key:
            raise UnavailableError("the store is away")
        put(self, key, data)

    monkeypatch.setattr(FolderStore, "put", away)
    job = job_of(tiny_recipe(folder), "autoencoder", run_uri=f"{folder}/away")
    hooks = Recorded()
    assert run(job, hooks=hooks).status == "done"
    notes = [event["text"] for event in hooks.events if event["kind"] == "note"]
    assert [note for note in notes if "step-00000002 was not written: the store is away" in note]
    kept = (folder / "away/stages/autoencoder/checkpoints").glob("*/COMMIT")
    assert sorted(path.parent.name for path in kept) == ["step-00000004", "step-00000006"]
    straight = weights(folder, "straight", "autoencoder")
    for name, tensor in weights(folder, "away", "autoencoder").items():
        assert torch.equal(tensor, straight[name])


def test_steps_and_previews_wait_for_the_copy_of_a_save(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tiny_tree(folder)
    dit = next(stage for stage in tree["stages"] if stage["id"] == "dit")
    dit["train"]["preview"]["every_steps"] = 4
    dit["save"] = {"every_steps": 1, "keep": STEPS}
    recipe = parse_recipe(tree, origin="tiny")
    saved: dict[str, list[list[str]]] = {}
    for name in ("prompt", "late"):
        if name == "late":
            copy_when_waited_for(monkeypatch)
        link_upstream(folder, run_name=name)
        finish_stage(recipe, "dit", run_uri=f"{folder}/{name}")
        dist.destroy_process_group()
        checkpoints = sorted((folder / name / "stages/dit/checkpoints").iterdir())
        saved[name] = [
            [
                file["xxh64"]
                for file in json.loads((one / "index.json").read_text())["files"].values()
            ]
            for one in checkpoints
        ]
    assert saved["late"] == saved["prompt"]
    assert len({tuple(one) for one in saved["late"]}) == STEPS


def copy_when_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets training get as far as it ever can before a save copies its state."""
    begin, copy = HostBuffers.begin, HostBuffers.copy
    is_waited_for = [threading.Event()]

    def begins(buffers: HostBuffers) -> list[HostFile]:
        is_waited_for[0] = threading.Event()
        return begin(buffers)

    def copies(buffers: HostBuffers) -> None:
        is_waited_for[0].wait()
        copy(buffers)

    def first(act: Callable[[Saver], Any]) -> Callable[[Saver], Any]:
        def acts(saver: Saver) -> Any:
            is_waited_for[0].set()
            return act(saver)

        return acts

    monkeypatch.setattr(HostBuffers, "begin", begins)
    monkeypatch.setattr(HostBuffers, "copy", copies)
    monkeypatch.setattr(Saver, "wait_for_copy", first(Saver.wait_for_copy))
    monkeypatch.setattr(Saver, "finish", first(Saver.finish))


def test_a_metric_to_keep_by_that_is_not_logged_is_said_once(folder: Path) -> None:
    tree = tiny_tree(folder)
    tree["stages"][0]["save"]["keep_best"] = {"metric": "losss"}
    recipe, hooks = parse_recipe(tree, origin="tiny"), Recorded()
    run(job_of(recipe, "autoencoder", run_uri=f"{folder}/misspelt"), hooks=hooks)
    notes = [event["text"] for event in hooks.events if event["kind"] == "note"]
    (said,) = [note for note in notes if "keep_best" in note]
    assert said.startswith("save.keep_best.metric=losss is not logged")
    assert "loss" in said.rpartition("wanted one of ")[2].split(", ")


@pytest.mark.parametrize("is_away_always", [False, True])
def test_only_saves_that_are_lost_in_a_row_end_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_away_always: bool
) -> None:
    put = FolderStore.put
    refused: list[str] = []

    def away(self: FolderStore, key: str, data: bytes | memoryview) -> None:
        step = next((part for part in key.split("/") if part.startswith("step-")), None)
        if step is not None and (is_away_always or int(step.removeprefix("step-")) % 2):
            refused.append(step)
            raise UnavailableError("the store is away")
        put(self, key, data)

    monkeypatch.setattr(FolderStore, "put", away)
    tree = tiny_tree(tmp_path)
    tree["stages"][0]["train"]["steps"] = 2 * (MAX_LOST + 1)
    tree["stages"][0]["save"]["every_steps"] = 1
    recipe = parse_recipe(tree, origin="tiny")
    ensure_sources(recipe, on_clips=lambda *_: None)
    job = job_of(recipe, "autoencoder", run_uri=f"{tmp_path}/run")
    if is_away_always:
        with pytest.raises(UnavailableError, match="the store is away"):
            run(job, hooks=Recorded())
    else:
        assert run(job, hooks=Recorded()).status == "done"
    assert len(set(refused)) == MAX_LOST + 1


def test_training_outlasts_metrics_and_samples_that_the_store_does_not_take(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = FolderStore.put
    writers: list[str] = []

    def away(self: FolderStore, key: str, data: bytes | memoryview) -> None:
        if key.endswith("metrics.jsonl"):
            writers.append(threading.current_thread().name)
        if "samples/" in key or (key.endswith("metrics.jsonl") and len(writers) == 1):
            raise UnavailableError("the store is away")
        put(self, key, data)

    monkeypatch.setattr(FolderStore, "put", away)
    link_upstream(folder, run_name="away-dit")
    hooks = Recorded()
    job = job_of(tiny_recipe(folder), "dit", run_uri=f"{folder}/away-dit")
    assert run(job, hooks=hooks).status == "done"
    notes = [event["text"] for event in hooks.events if event["kind"] == "note"]
    assert [note for note in notes if "step-00000002 was not written: the store is away" in note]
    assert [note for note in notes if "the samples of step 6 are lost" in note]
    assert set(writers) == {"checkpoint"}, "a step waited for the store"
    assert curve(folder, "away-dit", "dit") == curve(folder, "straight", "dit")


def test_latents_are_normalised(folder: Path) -> None:
    index = Index.open(f"{folder}/straight/stages/encode/latents")
    reader = Reader(index, cache_dir=str(folder / "cache"), cache_bytes=10**9, memory_bytes=0)
    latents = np.stack([reader.read(row)[1]["latent"] for row in range(len(index))])
    channels = latents.astype(np.float64).transpose(1, 0, 2, 3, 4).reshape(latents.shape[1], -1)
    # The statistics are of clips in the order of training, which shows some of them once more.
    np.testing.assert_allclose(channels.mean(axis=1), 0.0, atol=0.05)
    np.testing.assert_allclose(channels.std(axis=1), 1.0, atol=0.05)


def test_evaluation_reports_shares(folder: Path) -> None:
    job = job_of(tiny_recipe(folder), "evaluate", run_uri=f"{folder}/straight")
    report = evaluate(job, hooks=Recorded())
    assert report["prompts"] == 4
    assert all(0 <= report[name] <= 1 for name in ("digit", "colour", "direction"))
    assert (folder / "straight/stages/evaluate/report.json").is_file()


def test_a_stopped_evaluation_is_no_result(folder: Path) -> None:
    tree = tiny_tree(folder)
    tree["stages"][-1]["evaluate"]["batch"] = 2
    job = job_of(parse_recipe(tree, origin="tiny"), "evaluate", run_uri=f"{folder}/unjudged")
    link_upstream(folder, run_name="unjudged")
    (folder / "unjudged/stages/dit").symlink_to(folder / "straight/stages/dit")
    hooks = Recorded(stop_after=1)
    assert evaluate_stage(job, hooks=hooks) == StageResult(status="stopped", step=0)
    assert [event["step"] for event in hooks.events] == [2]
    assert not (folder / "unjudged/stages/evaluate").exists()


def test_another_seed_is_refused_on_resume(folder: Path) -> None:
    recipe = tiny_recipe(folder)
    job = job_of(recipe, "autoencoder", run_uri=f"{folder}/reseeded")
    run(job, hooks=Recorded(stop_after=2))
    other = job_of(
        recipe.model_copy(update={"seed": 1}), "autoencoder", run_uri=f"{folder}/reseeded"
    )
    with pytest.raises(UserError, match="seed="):
        run(other, hooks=Recorded())
