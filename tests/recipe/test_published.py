"""The recipes at the papers' sizes: shapes, order and weights of every network."""

from pathlib import Path

import pytest

from models.cascade.chain import Cascade
from models.cascade.link import Link
from models.make_a_video.prior_config import PriorConfig
from orchestrator.launch.stages import short
from orchestrator.plan.graph import stage_graph
from orchestrator.recipe.chain import upsampling
from orchestrator.recipe.load import load_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.train.describe import StageFacts, describe
from tests.models.links import ENLARGING, STARTING, link

JOBS = Path(__file__).parents[2] / "jobs"

# Ho et al. 2022, arXiv:2210.02303, figure 6 and project page: frames, size, fps, 10^9 weights.
IMAGEN_VIDEO = {
    "base": (16, (24, 40), 3, 5.6),
    "tsr1": (32, (24, 40), 6, 1.7),
    "ssr1": (32, (48, 80), 6, 1.4),
    "ssr2": (32, (192, 320), 6, 1.2),
    "tsr2": (64, (192, 320), 12, 0.78),
    "tsr3": (128, (192, 320), 24, 0.63),
    "ssr3": (128, (768, 1280), 24, 0.34),
}

# Singer et al. 2022, arXiv:2209.14792, section 3: frames and size as sampled, and the step there.
MAKE_A_VIDEO = {
    "decoder_video": (16, (64, 64), None),
    "interpolation": (76, (64, 64), ("given", 5)),
    "sr_l_video": (76, (256, 256), ("space", 4)),
    "sr_h": (76, (768, 768), ("space", 3)),
}

LESS_FRAMES, LESS_ROWS, LESS_COLUMNS = 8, 6, 10  # of the small chain


@pytest.fixture(scope="module")
def imagen_video() -> dict[str, StageFacts]:
    return {row.stage: row for row in describe(load_recipe(JOBS / "imagen_video.yaml"))}


def test_networks_of_imagen_video_are_sampled_in_the_published_order_and_shapes() -> None:
    recipe = load_recipe(JOBS / "imagen_video.yaml")
    assert recipe.result is not None
    clips = {stage.id: stage.training.clip for stage in recipe.chain(recipe.result.id)}
    assert list(clips) == list(IMAGEN_VIDEO)
    for name, (frames, size, fps, _) in IMAGEN_VIDEO.items():
        clip = clips[name]
        assert (clip.frames, clip.size, clip.fps) == (frames, size, fps)
        assert clip.frames / clip.fps == pytest.approx(16 / 3)  # all networks span 5.33 s


def test_networks_of_imagen_video_have_the_published_sizes(
    imagen_video: dict[str, StageFacts],
) -> None:
    for name, (_, _, _, billions) in IMAGEN_VIDEO.items():
        assert (imagen_video[name].parameters or 0) / 1e9 == pytest.approx(billions, rel=0.03)


def test_mixing_of_frames_and_attention_are_as_published() -> None:
    recipe = load_recipe(JOBS / "imagen_video.yaml")
    for name in IMAGEN_VIDEO:
        unet = recipe.stage(name).training.unet
        assert bool(unet.temporal_attention) == (name == "base")
        assert unet.temporal_conv == (name != "base")
        assert bool(unet.attention) == (name in ("base", "ssr1", "ssr2"))
        assert unet.augmentation == (name != "base")
    crops = [name for name in IMAGEN_VIDEO if recipe.stage(name).training.crop]
    assert crops == ["ssr3"]


def test_every_network_reads_text_and_predicts_v() -> None:
    recipe = load_recipe(JOBS / "imagen_video.yaml")
    for name in IMAGEN_VIDEO:
        train = recipe.stage(name).training
        assert train.unet.text
        assert train.diffusion.kind == "v"


def test_guidance_oscillates_up_to_48x80_and_images_are_packed_where_space_is_made() -> None:
    recipe = load_recipe(JOBS / "imagen_video.yaml")
    for name, (_, size, _, _) in IMAGEN_VIDEO.items():
        train = recipe.stage(name).training
        guidance = train.sampler.guidance
        if size <= (48, 80):
            assert guidance.oscillation is not None
            # Section 2.6.2: w of 15 and 1; a scale is w + 1.
            assert (guidance.scale, guidance.oscillation.low) == (16.0, 2.0)
        else:
            assert guidance.oscillation is None
        assert (train.packed_images > 0) == (name in ("base", "ssr1", "ssr2", "ssr3"))


def test_no_network_of_imagen_video_reads_anothers_weights() -> None:
    recipe = load_recipe(JOBS / "imagen_video.yaml")
    graph = stage_graph(recipe)
    assert {name: graph[name] for name in IMAGEN_VIDEO} == dict.fromkeys(IMAGEN_VIDEO, ())
    for stage in recipe.stages:
        if stage.distill is not None:
            assert graph[stage.id] == (stage.distill.teacher,)


def test_no_bias_between_frames_is_sampled_that_was_never_trained() -> None:
    for name in ("imagen_video", "make_a_video"):
        recipe = load_recipe(JOBS / f"{name}.yaml")
        assert recipe.result is not None
        longest = 1
        for stage in recipe.chain(recipe.result.id):
            unet, frames = stage.training.unet, stage.training.clip.frames
            longest = max(longest, frames)
            if unet.temporal_attention and longest > frames:
                assert unet.max_distance <= frames - 1


def test_every_network_of_imagen_video_is_distilled_to_eight_steps() -> None:
    recipe = load_recipe(JOBS / "imagen_video.yaml")
    for student in recipe.chain("ssr3", distilled=True):
        sampler = student.training.sampler
        assert (sampler.kind, sampler.steps) == ("ddim_back", 8)
        rounds = [student]
        while rounds[-1].distill is not None:
            rounds.append(recipe.stage(rounds[-1].distill.teacher))
        first = rounds[-2].distill
        assert first is not None
        assert first.guidance is not None


def test_networks_of_make_a_video_are_sampled_in_the_published_order_and_shapes() -> None:
    recipe = load_recipe(JOBS / "make_a_video.yaml")
    assert recipe.result is not None
    found: dict[str, tuple[int, tuple[int, int], tuple[str, int] | None]] = {}
    frames = 1
    for stage in recipe.chain(recipe.result.id):
        clip, made = stage.training.clip, None
        if stage.upsamples is not None:
            step = upsampling(stage, parent=recipe.stage(stage.upsamples))
            made = (step.kind, step.factor)
        frames = max(frames, clip.frames)  # a network of space takes longer clips
        found[stage.id] = (frames, clip.size, made)
    assert list(found.items()) == list(MAKE_A_VIDEO.items())


def test_the_last_network_of_make_a_video_knows_no_time() -> None:
    recipe = load_recipe(JOBS / "make_a_video.yaml")
    for name in MAKE_A_VIDEO:
        train = recipe.stage(name).training
        assert train.unet.temporal_conv == (name != "sr_h")
        assert bool(train.unet.temporal_attention) == (name != "sr_h")
        assert (train.clip.frames == 1) == (name == "sr_h")


def test_networks_of_videos_begin_with_those_of_images() -> None:
    graph = stage_graph(load_recipe(JOBS / "make_a_video.yaml"))
    assert {name: graph[name] for name in graph if not name.startswith("evaluate")} == {
        **dict.fromkeys(("prior", "decoder", "sr_l", "sr_h"), ()),
        "decoder_video": ("decoder",),
        "interpolation": ("decoder_video",),
        "sr_l_video": ("sr_l",),
    }


def test_networks_of_make_a_video_have_the_sizes_of_dalle_2() -> None:
    rows = {row.stage: row for row in describe(load_recipe(JOBS / "make_a_video.yaml"))}
    # Ramesh et al. 2022, arXiv:2204.06125, table 3. Its decoder counts a text transformer of 24
    # blocks of width 2048 (1.2 x 10^9), which Make-A-Video's has not.
    text_transformer = 24 * 12 * 2048**2 / 1e9
    for name, billions, rel in (
        ("decoder", 3.5 - text_transformer, 0.05),
        ("sr_l", 0.7, 0.05),
        ("sr_h", 0.3, 0.06),
    ):
        assert (rows[name].parameters or 0) / 1e9 == pytest.approx(billions, rel=rel)


def test_the_prior_has_the_published_width_and_depth() -> None:
    # Table 3 prints 1B for it; its own width and depth give 1.2 x 10^9.
    recipe = load_recipe(JOBS / "make_a_video.yaml")
    prior = recipe.stage("prior").training.model
    assert isinstance(prior, PriorConfig)
    assert (prior.width, prior.depth) == (2048, 24)
    (row,) = [row for row in describe(recipe) if row.stage == "prior"]
    assert row.parameters == 1_219_793_408


def test_a_small_chain_samples_clips_in_the_published_ratios() -> None:
    recipe = load_recipe(JOBS / "imagen_video.yaml")
    assert recipe.result is not None
    links = [_small_link(recipe, stage) for stage in recipe.chain(recipe.result.id)]
    clips = Cascade(links=tuple(links)).sample(["a red three"], seeds=[0])
    found = [tuple(clip.shape[2:]) for clip in clips]
    assert found == [
        (frames // LESS_FRAMES, height // LESS_ROWS, width // LESS_COLUMNS)
        for frames, (height, width), _, _ in IMAGEN_VIDEO.values()
    ]


def _small_link(recipe: Recipe, stage: Stage) -> Link:
    """A fresh network of a few weights that does the stage's step on a clip scaled down."""
    clip, step = stage.training.clip, None
    if stage.upsamples is not None:
        step = upsampling(stage, parent=recipe.stage(stage.upsamples))
    return link(
        STARTING if step is None else ENLARGING,
        "start" if step is None else step.kind,
        frames=clip.frames // LESS_FRAMES,
        side=clip.size[0] // LESS_ROWS,
        factor=1 if step is None else step.factor,
        steps=1,
    )


@pytest.mark.parametrize(
    ("file", "enlarging"),
    [
        ("imagen_video.yaml", ("tsr1", "ssr1", "ssr2", "tsr2", "tsr3")),
        ("make_a_video.yaml", ("interpolation", "sr_l_video", "sr_h")),
    ],
)
def test_upsamplers_are_measured_against_interpolation(
    file: str, enlarging: tuple[str, ...]
) -> None:
    recipe = load_recipe(JOBS / file)
    (stage,) = [stage for stage in recipe.stages if stage.evaluate is not None]
    assert stage.evaluate is not None
    assert stage.evaluate.metric == "upsamplers"  # no classifier knows these clips
    assert recipe.needs(stage) == enlarging


def test_numbers_are_shortened() -> None:
    assert [short(value) for value in (0, 7, 999.4, 1000, 5_549_600_000, 2.2788e14)] == [
        "0",
        "7",
        "999",
        "1k",
        "5.55G",
        "228T",
    ]
