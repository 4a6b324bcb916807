"""Recipes of both cascades with every stage and mechanism, small enough for a test.

Both train on 8 frames of 16x16 at 8 frames per second; Make-A-Video has images of its own.
"""

from pathlib import Path
from typing import Any

import yaml

from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe

STEPS = 3

_HEAD = """
version: 1
name: {name}
runs: {folder}/runs
data:
  train:
    uri: {folder}/data/train
    digits: {{clips: 16, shapes: [{{frames: 8, size: [16, 16]}}]}}
  eval:
    uri: {folder}/data/eval
    digits: {{clips: 8, shapes: [{{frames: 8, size: [16, 16]}}]}}
text: {{kind: byt5, width: 16, depth: 1, heads: 2, stride: 4}}
tracking: {{uri: "sqlite:///{folder}/mlflow.db"}}
"""
_IMAGES = """
uri: {folder}/data/images
digits: {{clips: 12, shapes: [{{frames: 1, size: [16, 16]}}]}}
"""
_TRAIN = {
    "steps": STEPS,
    "batch": 4,
    "micro_batch": 2,
    "optim": {"lr": 1e-3},
    "ema": 0.5,
    "log_every": 1,
}
_SMALL = {"kind": "video_unet", "width": 8, "groups": 4, "head_width": 4}
_EFFICIENT = {**_SMALL, "layout": "efficient", "mults": [1, 2], "blocks": 1, "temporal_conv": True}
_ADM = {**_SMALL, "layout": "adm", "mults": [1, 2], "blocks": 1}


def _clip(frames: int, side: int) -> dict[str, Any]:
    return {"frames": frames, "size": [side, side], "fps": float(frames)}


def _unet(
    frames: int,
    side: int,
    *,
    model: dict[str, Any],
    objective: dict[str, Any],
    **fields: Any,
) -> dict[str, Any]:
    clip = _clip(frames, side)
    return {**_TRAIN, "model": model, "objective": objective, "clip": clip, **fields}


def imagen_tree(folder: Path | str, *, workers: int = 0) -> dict[str, Any]:
    """Base, three networks of time and three of space as published, and a distilled base."""
    text = {"text": True, "context_attention": [1]}
    base = {**_EFFICIENT, **text, "temporal_conv": False, "temporal_attention": [0, 1]}
    enlarging = {
        **_EFFICIENT,
        **text,
        "low_resolution": True,
        "augmentation": True,
        "expected_std": 0.2,
    }
    last = {key: value for key, value in enlarging.items() if key not in text}
    v = {"kind": "v"}
    guided = {"kind": "ddpm", "steps": 4, "variance": 0.3, "threshold": "dynamic"}
    swing = {"guidance": {"scale": 3.0, "oscillation": {"low": 1.0}}}
    above = {"objective": v, "augmentation": {"level": 0.1}, "caption_drop": 0.1}
    sampler = {"sampler": {"kind": "ddim", "steps": 2, "threshold": "static"}}
    stages: list[dict[str, Any]] = [
        {
            "id": "base",
            "train": _unet(
                2,
                4,
                model=base,
                objective=v,
                packed_images=0.3,
                caption_drop=0.1,
                sampler={**guided, **swing},
                preview={"prompts": ["a red three moving left"], "every_steps": STEPS},
            ),
        }
    ]
    for name, parent, frames, side, extra in (
        ("tsr1", "base", 4, 4, {}),
        ("ssr1", "tsr1", 4, 8, {"packed_images": 0.3}),
        ("tsr2", "ssr1", 8, 8, {}),
        ("ssr2", "tsr2", 8, 16, {"crop": [8, 8], "model": last, "caption_drop": 0.0}),
    ):
        fields = {"model": enlarging, **above, **sampler, **extra}
        train = _unet(frames, side, **fields)
        stages.append({"id": name, "upsamples": parent, "train": train})
    stages += [
        {"id": "base-guided", "distill": {"teacher": "base", "guidance": {"scale": 3.0}}},
        {"id": "base-2", "distill": {"teacher": "base-guided", "steps": 2}},
        {"id": "evaluate", "evaluate": {"model": "ssr2", "prompts": 4, "batch": 4}},
        {
            "id": "evaluate-distilled",
            "evaluate": {"model": "ssr2", "distilled": True, "prompts": 4, "batch": 4},
        },
        {
            "id": "evaluate-upsamplers",
            "evaluate": {"model": "ssr2", "metric": "upsamplers", "prompts": 4, "batch": 4},
        },
    ]
    return _tree("tiny-imagen", folder, stages, workers=workers)


def make_a_video_tree(folder: Path | str, *, workers: int = 0) -> dict[str, Any]:
    """Pair and prior, decoder, decoder of videos, interpolation and both upsamplers."""
    epsilon = {"kind": "epsilon", "learned_variance": True}
    decoder = {**_ADM, "attention": [1], "image_embedding": 8, "learned_variance": True}
    video = {"temporal_conv": True, "temporal_attention": [1], "fps": True}
    enlarging = {
        **_ADM,
        "low_resolution": True,
        "augmentation": True,
        "learned_variance": True,
        "expected_std": 0.2,
    }
    ddpm = {"sampler": {"kind": "ddpm", "steps": 3, "threshold": "static"}}
    guided = {"sampler": {**ddpm["sampler"], "guidance": {"scale": 2.0}}, "embedding_drop": 0.1}
    noise = {"augmentation": {"level": 0.1}, **ddpm}
    pair = {"kind": "clip_pair", "embedding_width": 8, "width": 8, "stages": 2}
    byt5 = {"width": 16, "depth": 1, "heads": 2, "stride": 4}
    prior = {"kind": "clip_prior", "width": 16, "heads": 2, "depth": 1, "text_tokens": 16}
    slow = {"lr": 1e-3, "spatial_lr_ratio": 0.5}
    one = {**_TRAIN, "micro_batch": 4}
    stages = [
        {
            "id": "pair",
            "train": {
                **one,
                "model": {**pair, "text": byt5},
                "objective": {"kind": "contrastive"},
                "clip": _clip(1, 16),
            },
        },
        {
            "id": "prior",
            "pair": "pair",
            "train": {
                **_TRAIN,
                "model": prior,
                "objective": {"kind": "x0"},
                "clip": _clip(1, 16),
                "caption_drop": 0.1,
                "sampler": {"kind": "ddim", "steps": 2, "guidance": {"scale": 2.0}},
            },
        },
        {
            "id": "decoder",
            "pair": "pair",
            "train": _unet(1, 4, model=decoder, objective=epsilon, **guided),
        },
        {
            "id": "sr_l",
            "upsamples": "decoder",
            "train": _unet(1, 8, model=enlarging, objective=epsilon, **noise),
        },
        {
            "id": "decoder_video",
            "starts_from": "decoder",
            "pair": "pair",
            "prior": "prior",
            "train": {
                **_unet(4, 4, model={**decoder, **video}, objective=epsilon, **guided),
                "fps_range": {"low": 2.0, "high": 8.0},
                "optim": slow,
            },
        },
        {
            "id": "interpolation",
            "starts_from": "decoder_video",
            "upsamples": "decoder_video",
            "pair": "pair",
            "train": _unet(
                7,
                4,
                model={
                    **{**decoder, **video, "given_frames": True, "dropout": 0.1},
                    **{"expected_std": 0.2, "expected_mean": 0.0},
                },
                objective=epsilon,
                given={"skips": [2, 3]},
                missing_frames="blend",
                **guided,
            ),
        },
        {
            "id": "sr_l_video",
            "starts_from": "sr_l",
            "upsamples": "interpolation",
            "train": _unet(
                4,
                8,
                model={**enlarging, "temporal_conv": True, "temporal_attention": [1]},
                objective=epsilon,
                **noise,
            ),
        },
        {
            "id": "sr_h",
            "upsamples": "sr_l_video",
            "train": _unet(1, 16, model=enlarging, objective=epsilon, crop=[8, 8], **noise),
        },
        {"id": "evaluate", "evaluate": {"model": "sr_h", "prompts": 4, "batch": 4}},
        {"id": "evaluate-prior", "evaluate": {"model": "prior", "metric": "prior", "prompts": 4}},
        {
            "id": "evaluate-upsamplers",
            "evaluate": {"model": "sr_h", "metric": "upsamplers", "prompts": 4, "batch": 4},
        },
    ]
    fast = {"interpolation": 8.0, "sr_l_video": 8.0}
    slow_rate = {"decoder_video": 4.0, "decoder": 4.0}
    for stage in stages:
        if stage["id"] in {**fast, **slow_rate}:
            stage["train"]["clip"]["fps"] = {**fast, **slow_rate}[stage["id"]]
    tree = _tree("tiny-make-a-video", folder, stages, workers=workers)
    tree["data"]["images"] = yaml.safe_load(_IMAGES.format(folder=folder))
    return tree


def imagen_recipe(folder: Path | str, *, workers: int = 0) -> Recipe:
    """The recipe, checked."""
    return parse_recipe(imagen_tree(folder, workers=workers), origin="tiny")


def make_a_video_recipe(folder: Path | str, *, workers: int = 0) -> Recipe:
    """The recipe, checked."""
    return parse_recipe(make_a_video_tree(folder, workers=workers), origin="tiny")


def _tree(
    name: str, folder: Path | str, stages: list[dict[str, Any]], *, workers: int
) -> dict[str, Any]:
    tree = yaml.safe_load(_HEAD.format(name=name, folder=folder))
    for stage in stages:
        if "train" in stage:
            stage |= {"compute": {"workers": workers}, "save": {"every_steps": 2}}
    return {**tree, "stages": stages}
