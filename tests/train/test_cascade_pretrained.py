"""Cascades on pretrained encoders: a frozen T5 for text, a frozen CLIP for image embeddings.

The checkpoints are tiny and random, saved as the hub has them and read by the real loading code.
"""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from orchestrator.data.sources import ensure_sources
from orchestrator.errors import UserError
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.train.evaluate import evaluate
from orchestrator.train.job import StageJob
from orchestrator.train.worker import run
from tests.cascades import imagen_tree, make_a_video_tree
from tests.groups import leave_group
from tests.models.clip_checkpoints import EMBEDDING, POSITIONS, save_pair
from tests.models.test_text_pretrained import save_t5
from tests.train.test_worker import Recorded

pytestmark = pytest.mark.usefixtures("one_process")


def train(recipe: Recipe, stage: str, *, folder: Path) -> dict[str, object]:
    """Trains a stage; returns its weights by name."""
    job = StageJob(recipe=recipe, stage=stage, run=f"{folder}/run", attempt=1)
    assert run(job, hooks=Recorded()).status == "done"
    leave_group()
    return dict(load_file(folder / "run" / "stages" / stage / "weights" / "ema.safetensors"))


def with_clip(folder: Path, *, embedding: int = EMBEDDING) -> Recipe:
    """Make-A-Video on the checkpoint instead of a pair of its own."""
    tree = make_a_video_tree(folder)
    tree["stages"] = [stage for stage in tree["stages"] if stage["id"] != "pair"]
    tree["pair"] = {"kind": "clip", "path": str(folder / "clip"), "max_length": POSITIONS}
    for stage in tree["stages"]:
        stage.pop("pair", None)
        model = stage.get("train", {}).get("model", {})
        if "image_embedding" in model:
            model["image_embedding"] = embedding
        if model.get("kind") == "clip_prior":
            model["text_tokens"] = POSITIONS
    recipe = parse_recipe(tree, origin="tiny")
    ensure_sources(recipe, on_clips=lambda *_: None)
    return recipe


def test_t5_is_read_and_never_trained(tmp_path: Path) -> None:
    save_t5(tmp_path / "t5")
    tree = imagen_tree(tmp_path)
    tree["text"] = {"kind": "t5", "path": str(tmp_path / "t5"), "max_length": 32}
    recipe = parse_recipe(tree, origin="tiny")
    ensure_sources(recipe, on_clips=lambda *_: None)
    for stage in ("base", "tsr1", "base-guided"):
        weights = train(recipe, stage, folder=tmp_path)
        assert not [name for name in weights if name.startswith("text.")]
    config = json.loads((tmp_path / "run/stages/base/weights/config.json").read_text())
    assert config["text_width"] == 32


def test_clip_stands_behind_prior_and_decoder(tmp_path: Path) -> None:
    save_pair(tmp_path / "clip")
    recipe = with_clip(tmp_path)
    for stage in ("prior", "decoder", "decoder_video"):
        assert not [name for name in train(recipe, stage, folder=tmp_path) if "vision" in name]
    job = StageJob(recipe=recipe, stage="evaluate-prior", run=f"{tmp_path}/run", attempt=1)
    assert set(evaluate(job, hooks=Recorded())) == {"prompts", "prior", "text", "mean"}


def test_an_embedding_of_another_width_is_refused_by_its_field(tmp_path: Path) -> None:
    save_pair(tmp_path / "clip")
    recipe = with_clip(tmp_path, embedding=EMBEDDING + 8)
    with pytest.raises(UserError, match=f"image_embedding={EMBEDDING + 8}, wanted {EMBEDDING}"):
        train(recipe, "decoder", folder=tmp_path)
