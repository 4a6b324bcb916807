"""How stages of a cascade hang together, and what is derived from it."""

from pathlib import Path

import pytest

from orchestrator.plan.graph import input_digest, stage_graph, stages_after
from orchestrator.recipe.chain import upsampling
from orchestrator.recipe.load import load_recipe, parse_recipe
from orchestrator.recipe.recipe import Recipe

JOBS = Path(__file__).parents[2] / "jobs"
IMAGEN = JOBS / "imagen_video_digits.yaml"
MAKE_A_VIDEO = JOBS / "make_a_video_digits.yaml"
NETWORKS = ["base", "tsr1", "ssr1", "ssr2", "tsr2", "tsr3", "ssr3"]


def test_networks_of_imagen_video_need_nothing_of_each_other() -> None:
    graph = stage_graph(load_recipe(IMAGEN))
    assert [graph[name] for name in NETWORKS] == [()] * 7


def test_order_of_make_a_video_is_the_papers() -> None:
    graph = stage_graph(load_recipe(MAKE_A_VIDEO))
    assert graph["prior"] == ("pair",)
    assert graph["decoder"] == ("pair",)
    assert graph["sr_l"] == graph["sr_h"] == ()
    assert graph["decoder_video"] == ("pair", "decoder")
    assert graph["interpolation"] == ("pair", "decoder_video")
    assert graph["sr_l_video"] == ("sr_l",)


def test_chain_follows_what_upsamples_what() -> None:
    imagen, make_a_video = load_recipe(IMAGEN), load_recipe(MAKE_A_VIDEO)
    assert imagen.result is not None
    assert [stage.id for stage in imagen.chain(imagen.result.id)] == NETWORKS
    students = [stage.id for stage in imagen.chain("ssr3", distilled=True)]
    assert students == [f"{name}-8" for name in NETWORKS]
    assert make_a_video.result is not None
    chain = [stage.id for stage in make_a_video.chain(make_a_video.result.id)]
    assert chain == ["decoder_video", "interpolation", "sr_l_video", "sr_h"]


def test_steps_between_clips_are_derived() -> None:
    def steps(recipe: Recipe, names: list[str]) -> list[tuple[str, int]]:
        found = [
            upsampling(recipe.stage(name), parent=recipe.stage(recipe.stage(name).upsamples or ""))
            for name in names
        ]
        return [(one.kind, one.factor) for one in found]

    assert steps(load_recipe(IMAGEN), NETWORKS[1:]) == [
        ("time", 2),
        ("space", 2),
        ("space", 2),
        ("time", 2),
        ("time", 2),
        ("space", 2),
    ]
    assert steps(load_recipe(MAKE_A_VIDEO), ["interpolation", "sr_l_video", "sr_h"]) == [
        ("given", 3),
        ("space", 2),
        ("space", 2),
    ]


def test_chains_of_waiting_stages_are_counted() -> None:
    found = stages_after(load_recipe(IMAGEN))
    few = ("base", "base-guided", "base-16", "base-8", "tsr1", "tsr1-8", "evaluate")
    assert [found[stage] for stage in few] == [4, 3, 2, 1, 2, 1, 0]
    found = stages_after(load_recipe(MAKE_A_VIDEO))
    assert found == {
        **{"pair": 4, "prior": 1, "decoder": 3, "decoder_video": 2, "interpolation": 1},
        **{"sr_l": 2, "sr_l_video": 1, "sr_h": 1},
        **dict.fromkeys(("evaluate", "evaluate-prior", "evaluate-upsamplers"), 0),
    }


def test_student_takes_over_what_its_teacher_says() -> None:
    recipe = load_recipe(IMAGEN)
    teacher, guided, last = (recipe.stage(name) for name in ("base", "base-guided", "base-8"))
    assert guided.training.model == teacher.training.model
    assert guided.training.batch == teacher.training.batch
    assert guided.training.optim.lr == 5e-4
    assert guided.training.optim.betas == teacher.training.optim.betas
    assert guided.training.sampler.guidance.scale == 1.0
    assert guided.training.sampler.threshold == "dynamic"
    assert (last.training.sampler.kind, last.training.sampler.steps) == ("ddim_back", 8)
    assert recipe.stage("tsr1-8").upsamples == "base"
    assert recipe.stage("tsr1-8").needs == ("tsr1",)


def test_student_of_a_video_network_learns_all_layers_at_one_rate() -> None:
    tree = load_recipe(MAKE_A_VIDEO).model_dump(mode="json")
    stages = {stage["id"]: stage for stage in tree["stages"]}
    for name in ("decoder", "decoder_video"):
        stages[name]["train"]["model"]["learned_variance"] = False
        stages[name]["train"]["objective"] = {"kind": "v"}
    tree["stages"] = [stages[name] for name in ("pair", "prior", "decoder", "decoder_video")]
    tree["stages"].append({"id": "student", "distill": {"teacher": "decoder_video", "steps": 16}})
    recipe = parse_recipe(tree, origin="small")
    rates = [recipe.stage(name).training.optim for name in ("decoder_video", "student")]
    assert [one.spatial_lr_ratio for one in rates] == [0.5, 1.0]
    assert rates[0].lr == rates[1].lr


def test_a_completed_recipe_is_complete() -> None:
    recipe = load_recipe(IMAGEN)
    assert parse_recipe(recipe.model_dump(mode="json"), origin="again") == recipe


@pytest.mark.parametrize("fps", [5.142857, 5.142858])
def test_rates_of_given_frames_may_be_rounded(fps: float) -> None:
    rates = {"decoder_video": 1.714286, "interpolation": fps, "sr_l_video": fps}
    overrides = [f"stages.{name}.train.clip.fps={rate}" for name, rate in rates.items()]
    recipe = load_recipe(MAKE_A_VIDEO, overrides=overrides)
    step = upsampling(recipe.stage("interpolation"), parent=recipe.stage("decoder_video"))
    assert step.factor == 3


def test_a_chain_without_a_prior_can_be_trained_and_compared_but_not_sampled() -> None:
    tree = load_recipe(MAKE_A_VIDEO).model_dump(mode="json")
    for stage in tree["stages"]:
        stage["prior"] = None
    tree["stages"] = [stage for stage in tree["stages"] if stage["id"] != "evaluate"]
    recipe = parse_recipe(tree, origin="small")
    assert recipe.needs(recipe.stage("evaluate-upsamplers"))


def test_digests_follow_geometry_and_samplers() -> None:
    data = {"train": "a", "eval": "b"}

    def digest(stage: str, *overrides: str) -> str:
        recipe = load_recipe(IMAGEN, overrides=overrides)
        return input_digest(recipe, recipe.stage(stage), data=data)

    other_rate = [
        f"stages.{name}.train.clip.fps={2 * fps}"
        for name, fps in (
            ("base", 1),
            ("tsr1", 2),
            ("ssr1", 2),
            ("ssr2", 2),
            ("tsr2", 4),
            ("tsr3", 8),
            ("ssr3", 8),
        )
    ]
    # The first halving is of the guided student's steps, which are its teacher's otherwise.
    longer = (
        "stages.base.train.sampler.steps=64",
        "stages.base-guided.train.sampler={steps: 32}",
    )
    assert digest("tsr1") != digest("tsr1", *other_rate)
    assert digest("base") == digest("base", *longer)
    assert digest("evaluate") != digest("evaluate", *longer)
    assert digest("tsr1") == digest("tsr1", "stages.base.train.steps=7")


def test_single_frames_and_packed_slots_read_the_images() -> None:
    def names(path: Path) -> dict[str, tuple[str, ...]]:
        recipe = load_recipe(path, overrides=["data.images.uri=images"])
        return {stage.id: recipe.reads(stage) for stage in recipe.stages}

    videos, images, both = ("train",), ("images",), ("train", "images")
    assert names(MAKE_A_VIDEO) == {
        **dict.fromkeys(("pair", "prior", "decoder_video", "interpolation", "sr_l_video"), videos),
        **dict.fromkeys(("decoder", "sr_l", "sr_h"), images),
        **dict.fromkeys(("evaluate", "evaluate-prior", "evaluate-upsamplers"), ("eval",)),
    }
    found = names(IMAGEN)
    assert {stage for stage, one in found.items() if one == both} == {
        *(name for name in ("base", "ssr1", "ssr2", "ssr3")),
        *(f"{name}-8" for name in ("base", "ssr1", "ssr2", "ssr3")),
        "base-guided",
        "base-16",
    }
    assert found["tsr1"] == found["tsr3-8"] == videos


def test_latents_are_of_the_training_clips_also_where_they_are_single_frames() -> None:
    overrides = ["data.images.uri=images"]
    overrides += [f"stages.{one}.train.clip.frames=1" for one in ("autoencoder", "dit")]
    recipe = load_recipe(JOBS / "sora_debug.yaml", overrides=overrides)
    found = {stage.id: recipe.reads(stage) for stage in recipe.stages}
    assert found["autoencoder"] == ("images",)
    assert found["encode"] == found["dit"] == ("train",)


def test_digests_follow_the_images_of_the_networks_that_read_them() -> None:
    recipe = load_recipe(MAKE_A_VIDEO, overrides=["data.images.uri=images"])

    def changed(stage: str) -> bool:
        digests = {
            input_digest(
                recipe, recipe.stage(stage), data={"train": "a", "eval": "b", "images": images}
            )
            for images in ("c", "d")
        }
        return len(digests) == 2

    assert [changed(stage) for stage in ("prior", "decoder", "sr_h")] == [False, True, True]
    assert changed("decoder_video")  # it begins with the decoder's weights
