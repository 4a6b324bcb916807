"""Stages of a cascade that do not fit each other are refused in one line."""

from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.recipe.load import load_recipe, parse_recipe

JOBS = Path(__file__).parents[2] / "jobs"
IMAGEN = JOBS / "imagen_video_digits.yaml"
MAKE_A_VIDEO = JOBS / "make_a_video_digits.yaml"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.tsr1.upsamples=null", "stages.tsr1.upsamples=None, wanted the stage whose clips"),
        ("stages.base.upsamples=tsr1", "stages.base needs tsr1, wanted an earlier stage"),
        ("stages.tsr1.train.clip.fps=3", "wanted a whole multiple of its frames and of its fps"),
        ("stages.ssr1.train.clip.size=[24,36]", "wanted a whole multiple of both sides"),
        ("stages.ssr1.train.clip.frames=9", "wanted its fps and at most its frames, or 1 frame"),
        ("stages.base.train.clip.size=[12,14]", "clip.size=[12, 14], wanted multiples of 4"),
        ("stages.base.train.caption_drop=2", "caption_drop=2"),
        (
            "stages.base.train.image_share=0.5",
            "image_share=0.5 has no meaning for model.kind",
        ),
        ("stages.base.train.embedding_drop=0.5", "embedding_drop needs model.image_embedding"),
        ("stages.base.train.crop=[8,8]", "crop wants model.low_resolution=true"),
        ("stages.ssr1.train.missing_frames=blend", "missing_frames=blend has no meaning"),
        ("stages.ssr3.train.crop=[34,32]", "crop=[34, 32], wanted multiples of 4"),
        ("stages.tsr1.train.packed_images=0.5", "has no meaning for a network that puts frames"),
        ("stages.tsr1.train.augmentation=null", "augmentation=null with model.augmentation=True"),
        ("stages.base.train.objective.kind=contrastive", "stages.base.train.objective"),
        ("stages.base.train.model.learned_variance=true", "wanted both or neither"),
        ("stages.base.pair=tsr1", "stages.base needs tsr1"),
        ("stages.tsr1.pair=base", "stages.tsr1.pair: the network reads no image embedding"),
        ("stages.base-guided.distill.steps=4", "exactly one of guidance (phase 1) and steps"),
        ("stages.base-guided.distill.teacher=nobody", "distill.teacher=nobody, wanted an earlier"),
        ("stages.base-8.distill.steps=4", "stages.base-8.distill.steps=4, wanted half of its"),
        (
            "stages.base-16.distill.steps=8",
            "stages.base-16.distill.steps=8, wanted half of its teacher's sampler.steps=32",
        ),
        (
            "stages.tsr1-8.distill.steps=4",
            "stages.tsr1-8.distill.steps=4, wanted half of its teacher's sampler.steps=16",
        ),
        (
            "stages.base.train.sampler.shift=3.0",
            "stages.base-16.train.sampler.shift=3.0, wanted null or the objective's 1",
        ),
        (
            "stages.base.train.optim.spatial_lr_ratio=0.5",
            "stages.base.train.optim.spatial_lr_ratio=0.5, wanted 1.0 unless a U-Net takes",
        ),
        (
            "stages.base-8.train.optim={lr: 0.1, spatial_lr_ratio: 0.5}",
            "stages.base-8.train.optim.spatial_lr_ratio=0.5, wanted 1.0 unless a U-Net takes",
        ),
        ("stages.base-8.train.sampler.steps=9", "sampler.steps=9, wanted distill.steps=8"),
        ("stages.base-8.train.clip.fps=2", "stages.base-8.train.clip differs from the teacher's"),
        (
            "stages.base-guided.distill.guidance.oscillation={low: 1.0}",
            "distill.guidance.oscillation differs from step to step",
        ),
        ("stages.base-8.train.sampler.guidance={scale: 2.0}", "a student has taken the guidance"),
        ("stages.evaluate.evaluate.perceptual=x", "perceptual belongs to metric=upsamplers"),
        (
            "stages.evaluate-upsamplers.evaluate.perceptual=no.safetensors",
            "stages.evaluate-upsamplers.evaluate.perceptual=no.safetensors does not exist, wanted",
        ),
        ("stages.evaluate-upsamplers.evaluate.model=base", "wanted a stage that upsamples another"),
        ("stages.evaluate.evaluate.metric=prior", "wanted a stage that trains a PriorConfig"),
    ],
)
def test_what_does_not_fit_is_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(IMAGEN, overrides=[override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.pair.train.micro_batch=32", "train.batch=64 with micro_batch*workers=32"),
        (
            "stages.pair.compute={workers: 2, min_workers: 1}",  # one pass of all, not two of each
            "train.batch=64 with micro_batch*workers=128",
        ),
        ("stages.prior.pair=null", "stages.prior.pair=None, wanted the stage that trains the pair"),
        ("stages.decoder.train.model.image_embedding=32", "image_embedding=32, wanted 64"),
        ("stages.prior.train.model.text_tokens=8", "text_tokens=8, wanted at least 16"),
        ("stages.prior.train.sampler.threshold=static", "embeddings have no range to keep"),
        ("stages.decoder_video.train.model.width=64", "wanted the same model but for"),
        ("stages.sr_l_video.train.model.attention=[1]", "wanted the same model but for"),
        ("stages.interpolation.train.model.fps=false", "has fps=True, wanted it here too"),
        (
            "stages.interpolation.train.model.max_distance=21",
            "stages.interpolation.starts_from=decoder_video has max_distance=32, seen 21 here",
        ),
        (
            "stages.interpolation.train.model.temporal_kernel=5",
            "stages.interpolation.starts_from=decoder_video has temporal_kernel=3, seen 5 here",
        ),
        ("stages.interpolation.train.given.skips=[4]", "given.skips has 4, wanted divisors of"),
        ("stages.interpolation.train.given=null", "given=null with model.given_frames=True"),
        ("stages.interpolation.train.clip.size=[32,32]", "wanted the same size and (n - 1) *"),
        (
            "stages.interpolation.train.clip.fps=10",
            "10x16x16 at 10.0 fps from decoder_video's 4x16x16 at 4.0 fps, wanted 3 times its fps",
        ),
        (
            "stages.interpolation.train.objective.schedule=linear",
            "starts_from=decoder_video has objective.schedule=cosine, seen linear here",
        ),
        (
            "stages.decoder_video.train.objective.kind=x0",
            "stages.decoder_video.starts_from=decoder has objective.kind=epsilon, seen x0 here",
        ),
        ("stages.decoder_video.prior=pair", "wanted a stage that trains a PriorConfig"),
        (
            "stages.interpolation.prior=prior",
            "stages.interpolation.prior=prior, wanted null: the prior of decoder_video is the",
        ),
        ("stages.sr_h.prior=prior", "stages.sr_h.prior=prior: the network reads no image"),
        (
            "stages.decoder_video.prior=null",
            "stages.decoder_video.prior=None, wanted the stage that trains a prior: evaluate",
        ),
        ("stages.sr_l.train.fps_range={low: 1.0}", "fps_range needs model.fps"),
        (
            "stages.sr_h.train.sampler.guidance={scale: 2.0}",
            "the network reads nothing that guidance could lead to",
        ),
        ("pair={kind: clip, path: a/b}", "not both"),
        (
            "stages.decoder_video.distill={teacher: decoder, steps: 4}",
            "starts_from has no meaning for a student",
        ),
    ],
)
def test_what_does_not_fit_make_a_video_is_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(MAKE_A_VIDEO, overrides=[override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"interpolation": {"pair": "other"}},
            "stages.interpolation.starts_from=decoder_video has pair=pair, seen other here",
        ),
        (
            {"interpolation": {"pair": "other", "starts_from": None}},
            "stages.interpolation.pair=other, wanted pair, the pair of decoder_video",
        ),
        (
            {"prior": {"pair": "other"}},
            "stages.decoder_video.prior=prior has pair=other, wanted pair",
        ),
    ],
)
def test_a_chain_reads_the_embeddings_of_one_pair(
    changed: dict[str, dict[str, str | None]], message: str
) -> None:
    tree = load_recipe(MAKE_A_VIDEO).model_dump(mode="json")
    (pair,) = [stage for stage in tree["stages"] if stage["id"] == "pair"]
    tree["stages"] = [
        {**pair, "id": "other"},
        *({**stage, **changed.get(stage["id"], {})} for stage in tree["stages"]),
    ]
    with pytest.raises(UserError) as caught:
        parse_recipe(tree, origin="small")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
