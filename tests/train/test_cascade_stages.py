"""Stages of both cascades: each is trained by the one worker, from its own inputs alone."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.text.byt5 import Byt5Encoder
from models.text.small_pair import SmallPair
from orchestrator.data.sources import ensure_sources
from orchestrator.errors import UserError
from orchestrator.launch.evaluate import shown
from orchestrator.launch.run_folder import open_run
from orchestrator.launch.sample import sample_run
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import open_store
from orchestrator.train.evaluate import evaluate
from orchestrator.train.job import StageJob
from orchestrator.train.ranks import Ranks
from orchestrator.train.sampling import load_sampler
from orchestrator.train.sources import check_clips, open_stream
from orchestrator.train.varied import Wish, vary
from orchestrator.train.worker import run
from tests.cascades import STEPS, imagen_recipe, make_a_video_recipe
from tests.data.clips import write_source
from tests.groups import leave_group
from tests.train.test_worker import Recorded

pytestmark = pytest.mark.usefixtures("one_process")

ALONE = Ranks(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))


def job_of(recipe: Recipe, stage: str, *, folder: Path, run: str = "run") -> StageJob:
    return StageJob(recipe=recipe, stage=stage, run=f"{folder}/{run}", attempt=1)


def run_all(recipe: Recipe, folder: Path) -> None:
    """Every stage, and recipe.json, as a finished run has them."""
    ensure_sources(recipe, on_clips=lambda *_: None)
    for stage in recipe.stages:
        job = job_of(recipe, stage.id, folder=folder)
        if stage.train is not None:
            assert run(job, hooks=Recorded()).status == "done"
            leave_group()
        else:
            evaluate(job, hooks=Recorded())
    tree = {"digest": "", "data": {}, "recipe": recipe.model_dump(mode="json")}
    open_store(f"{folder}/run").put("recipe.json", json.dumps(tree).encode())


@pytest.fixture(scope="module")
def imagen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imagen")
    run_all(imagen_recipe(folder), folder)
    return folder


@pytest.fixture(scope="module")
def make_a_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("make-a-video")
    run_all(make_a_video_recipe(folder), folder)
    return folder


def report(folder: Path, stage: str) -> dict[str, float]:
    return json.loads((folder / "run" / "stages" / stage / "report.json").read_text())


def test_every_upsampler_is_compared_with_interpolation(imagen: Path, make_a_video: Path) -> None:
    assert set(report(imagen, "evaluate-upsamplers")) == {
        "prompts",
        *(
            f"{stage}/{name}"
            for stage in ("tsr1", "tsr2")
            for name in ("network", "repeat", "blend")
        ),
        *(f"{stage}/{name}" for stage in ("ssr1", "ssr2") for name in ("network", "bicubic")),
    }
    assert set(report(make_a_video, "evaluate-upsamplers")) == {
        "prompts",
        *(f"interpolation/{name}" for name in ("network", "repeat", "blend")),
        *(f"{stage}/{name}" for stage in ("sr_l_video", "sr_h") for name in ("network", "bicubic")),
    }
    assert set(report(make_a_video, "evaluate-prior")) == {"prompts", "prior", "text", "mean"}


def test_the_chain_is_sampled_with_its_intermediate_clips(make_a_video: Path) -> None:
    out = make_a_video / "out"
    prompts = ["a blue two moving up", "a red one moving left"]
    paths = sample_run(
        f"{make_a_video}/run",
        prompts,
        out=out,
        seed=1,
        npz=True,
        distilled=True,
        on_clips=lambda _: None,
    )
    assert {path.name for path in paths} >= {"0001.mp4", "stages.mp4", "stages.gif", "sheet.mp4"}
    assert np.load(out / "0000.npz")["frames"].shape == (7, 16, 16, 3)


@pytest.mark.parametrize(
    ("wish", "frames", "networks"),
    [
        (Wish(skip=3), 10, 4),
        (Wish(extrapolate=True), 7 + 4, 4),
        (Wish(image=Path("still.npz"), extrapolate=True), 7 + 4, 3),
    ],
)
def test_the_interpolation_network_is_asked_for_more(
    make_a_video: Path, wish: Wish, frames: int, networks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_a_video)
    np.savez("still.npz", frames=np.full((1, 30, 20, 3), 200, np.uint8))
    folder = f"{make_a_video}/run"
    store, recipe = open_run(folder)
    found = load_sampler(store, recipe, stage="sr_h", distilled=True, device=torch.device("cpu"))
    sampler = vary(found, wish, recipe=recipe)
    made = sampler.sample(["a red one moving left"], seed=1, batch=4)
    assert len(made) == networks
    assert made["sr_h"].shape == (1, frames, 16, 16, 3)
    assert sampler.fps == found.fps * (1.5 if wish.skip else 1.0)


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (Wish(skip=3), r"--skip 3: .* has no interpolation network"),
        (Wish(extend=Path("clip.mp4")), r"--extend clip.mp4: .* wanted a run of a video_dit"),
    ],
)
def test_a_run_that_cannot_do_what_is_asked_says_so(imagen: Path, wish: Wish, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        sample_run(
            f"{imagen}/run",
            ["seven"],
            out=imagen / "none",
            seed=1,
            npz=False,
            distilled=True,
            on_clips=lambda _: None,
            wish=wish,
        )


def test_students_are_sampled_unless_teachers_are_asked_for(imagen: Path) -> None:
    def frames(name: str, *, distilled: bool) -> np.ndarray:
        sample_run(
            f"{imagen}/run",
            ["a red one moving left"],
            out=imagen / name,
            seed=1,
            npz=True,
            distilled=distilled,
            on_clips=lambda _: None,
        )
        return np.load(imagen / name / "0000.npz")["frames"]

    students, teachers = frames("students", distilled=True), frames("teachers", distilled=False)
    assert students.shape == teachers.shape == (8, 16, 16, 3)
    assert not np.array_equal(students, teachers)


def test_no_stage_of_imagen_video_needs_another_stages_weights(tmp_path: Path) -> None:
    recipe = imagen_recipe(tmp_path)
    ensure_sources(recipe, on_clips=lambda *_: None)
    networks = [stage for stage in recipe.stages if stage.kind == "train"]
    for stage in networks:
        assert recipe.needs(stage) == ()
        # Each in a run of its own, in which there is nothing of the others.
        job = job_of(recipe, stage.id, folder=tmp_path, run=stage.id)
        assert run(job, hooks=Recorded()).status == "done"
        leave_group()


def test_video_networks_of_make_a_video_are_given_no_captions(make_a_video: Path) -> None:
    recipe = make_a_video_recipe(make_a_video)
    for stage in ("decoder_video", "sr_l_video", "interpolation", "sr_h"):
        with closing(open_stream(job_of(recipe, stage, folder=make_a_video), ranks=ALONE)) as one:
            batch = one.next()
        assert set(batch.captions) == {()}


def test_videos_without_captions_and_captioned_images_train_make_a_video(tmp_path: Path) -> None:
    recipe = make_a_video_recipe(tmp_path)
    for source, clips in ((recipe.data.train, 12), (recipe.data.eval, 4)):
        write_source(source.uri, {(8, 16, 16): clips}, captions=False)
    tree = recipe.model_dump(mode="json")
    for name in ("train", "eval"):
        tree["data"][name]["digits"] = None
    left_out = ("evaluate", "evaluate-prior")  # which read captions of held-out clips
    tree["stages"] = [one for one in tree["stages"] if one["id"] not in left_out]
    split = Recipe.model_validate_json(json.dumps(tree))
    check_clips(split, ensure_sources(split, on_clips=lambda *_: None))
    run_all(split, tmp_path)
    assert (tmp_path / "run" / "stages" / "evaluate-upsamplers" / "report.json").exists()
    for stage in split.stages:
        if stage.train is None:
            continue
        with closing(open_stream(job_of(split, stage.id, folder=tmp_path), ranks=ALONE)) as one:
            frames, *_ = one.next().plan.bucket
        assert frames == (1 if stage.training.clip.frames == 1 else 8)


def test_video_networks_of_make_a_video_train_where_no_caption_can_be_read(
    make_a_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a caption was read")

    for name in ("tokenize", "text"):
        monkeypatch.setattr(SmallPair, name, refuse)
    for name in ("tokenize", "forward"):
        monkeypatch.setattr(Byt5Encoder, name, refuse)
    recipe = make_a_video_recipe(make_a_video)
    for stage in ("decoder_video", "sr_l_video", "interpolation", "sr_h"):
        stages = tmp_path / stage / "stages"
        stages.mkdir(parents=True)
        for needed in recipe.needs(recipe.stage(stage)):
            (stages / needed).symlink_to(make_a_video / "run" / "stages" / needed)
        job = job_of(recipe, stage, folder=tmp_path, run=stage)
        assert run(job, hooks=Recorded()).status == "done"
        leave_group()


def test_students_begin_as_their_teachers(imagen: Path) -> None:
    recipe = imagen_recipe(imagen)
    frozen = recipe.model_dump(mode="json")
    for stage in frozen["stages"]:
        if stage["id"] == "base-guided":
            stage["train"] |= {"steps": 1, "ema": 0.0, "preview": None}
            stage["train"]["optim"]["lr"] = 1e-12
    same = Recipe.model_validate_json(json.dumps(frozen))
    job = StageJob(recipe=same, stage="base-guided", run=f"{imagen}/student", attempt=1)
    (imagen / "student" / "stages").mkdir(parents=True)
    (imagen / "student" / "stages" / "base").symlink_to(imagen / "run" / "stages" / "base")
    run(job, hooks=Recorded())
    student, teacher = (
        load_file(imagen / name / "weights" / "ema.safetensors")
        for name in ("student/stages/base-guided", "run/stages/base")
    )
    for name, weight in teacher.items():
        torch.testing.assert_close(student[name], weight, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("system", "stage"),
    [
        ("imagen", "base"),
        ("imagen", "base-2"),
        ("imagen", "ssr2"),
        ("make_a_video", "interpolation"),
    ],
)
def test_a_stopped_stage_goes_on_as_if_it_had_not_been(
    system: str, stage: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(system)
    recipe = (imagen_recipe if system == "imagen" else make_a_video_recipe)(folder)
    stages = tmp_path / "run" / "stages"
    stages.mkdir(parents=True)
    for done in (folder / "run" / "stages").iterdir():
        if done.name != stage:
            (stages / done.name).symlink_to(done)
    job = job_of(recipe, stage, folder=tmp_path)
    assert run(job, hooks=Recorded(stop_after=1)).step < STEPS
    leave_group()
    assert run(job, hooks=Recorded()).status == "done"
    straight, resumed = (
        load_file(root / "run" / "stages" / stage / "weights" / "ema.safetensors")
        for root in (folder, tmp_path)
    )
    assert straight.keys() == resumed.keys()
    for name, weight in straight.items():
        assert torch.equal(weight, resumed[name]), name


def test_layers_taken_over_from_images_learn_at_their_own_rate(make_a_video: Path) -> None:
    tree: dict[str, Any] = make_a_video_recipe(make_a_video).model_dump(mode="json")
    for stage in tree["stages"]:
        if stage["id"] == "decoder_video":
            stage["train"]["optim"]["spatial_lr_ratio"] = 0.0
    recipe = Recipe.model_validate_json(json.dumps(tree))
    root = make_a_video / "frozen" / "stages"
    root.mkdir(parents=True)
    for name in ("pair", "decoder"):
        (root / name).symlink_to(make_a_video / "run" / "stages" / name)
    job = job_of(recipe, "decoder_video", folder=make_a_video, run="frozen")
    run(job, hooks=Recorded())
    images = load_file(root / "decoder" / "weights" / "ema.safetensors")
    videos = load_file(root / "decoder_video" / "weights" / "ema.safetensors")
    assert all(torch.equal(weight, videos[name]) for name, weight in images.items())
    added = {name: weight for name, weight in videos.items() if name not in images}
    for part in ("conditioning.fps.", ".time."):
        assert any(weight.any() for name, weight in added.items() if part in name)


def test_clips_that_are_too_short_or_too_small_are_refused(tmp_path: Path) -> None:
    recipe = imagen_recipe(tmp_path)
    indexes = ensure_sources(recipe, on_clips=lambda *_: None)
    check_clips(recipe, indexes)
    tree = recipe.model_dump(mode="json")
    for stage in tree["stages"]:
        if stage["train"] is not None and stage["id"] == "ssr2":
            stage["train"]["clip"]["size"] = [32, 32]
    larger = Recipe.model_validate_json(json.dumps(tree))
    with pytest.raises(UserError, match="8x16x16, wanted at least 32x32 and its aspect for stage"):
        check_clips(larger, indexes)


@pytest.mark.parametrize(("uncaptioned", "stage"), [("images", "pair"), ("eval", "evaluate-prior")])
def test_captions_are_there_for_who_reads_them(
    tmp_path: Path, uncaptioned: str, stage: str
) -> None:
    recipe = make_a_video_recipe(tmp_path)
    source = recipe.data.sources[uncaptioned]
    frames = 1 if uncaptioned == "images" else 8
    write_source(source.uri, {(frames, 16, 16): 3}, captions=False)
    tree = recipe.model_dump(mode="json")
    tree["data"][uncaptioned]["digits"] = None
    bare = Recipe.model_validate_json(json.dumps(tree))
    indexes = ensure_sources(bare, on_clips=lambda *_: None)
    wanted = (
        rf"data.{uncaptioned}.uri=\S+: seen 3 without a caption, wanted one each for stage {stage}"
    )
    with pytest.raises(UserError, match=wanted):
        check_clips(bare, indexes)


def test_images_are_checked_by_the_networks_that_read_them(tmp_path: Path) -> None:
    tree = make_a_video_recipe(tmp_path).model_dump(mode="json")
    tree["data"]["images"]["digits"]["shapes"][0]["size"] = [12, 12]
    recipe = Recipe.model_validate_json(json.dumps(tree))
    indexes = ensure_sources(recipe, on_clips=lambda *_: None)
    wanted = r"data.images.uri=\S+: clips of 1x12x12, wanted at least 16x16 and its aspect"
    with pytest.raises(UserError, match=wanted):
        check_clips(recipe, indexes)


def test_numbers_of_reports_have_their_units() -> None:
    shares = {"digit": 0.913, "prompts": 100}
    assert [shown(*item) for item in shares.items()] == ["91.3%", "100"]
    assert shown("ssr1/network", 29.187) == "29.19 dB"
    assert shown("ssr1/network-lpips", 0.04321) == "0.043"
    assert shown("prior", 0.8765) == "0.876"
