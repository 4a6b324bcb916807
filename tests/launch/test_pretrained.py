"""A recipe that names a pretrained encoder is refused before anything starts if it is not there."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from orchestrator.errors import UnavailableError, UserError
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.train.pretrained import find_encoders
from tests.hub import NO_HUB, empty_hub
from tests.tiny import tiny_tree

ROOT = Path(__file__).parents[2]
MISSING = "weights/no-such-encoder"


def recipe_with(folder: Path, **keys: object) -> Recipe:
    return parse_recipe(tiny_tree(folder) | keys, origin="tiny")


def find_at(recipe: Recipe, *, hub: str, patch: pytest.MonkeyPatch, cache: Path) -> None:
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub + template)
    patch.setattr(constants, "ENDPOINT", hub)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    find_encoders(recipe)


@pytest.mark.parametrize("key", ["text", "pair"])
def test_a_model_that_the_hub_lacks_is_the_users_error(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_with(tmp_path, **{key: {"kind": "clip", "path": MISSING}})
    with (
        empty_hub() as hub,
        pytest.raises(UserError, match=rf"{key}\.path={MISSING}: seen no .* on the hub; wanted"),
    ):
        find_at(recipe, hub=hub, patch=monkeypatch, cache=tmp_path)


def test_a_hub_that_does_not_answer_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the hub's client waits between six tries
    recipe = recipe_with(tmp_path, text={"kind": "t5", "path": MISSING})
    with pytest.raises(UnavailableError, match=rf"text\.path={MISSING}: .* does not answer"):
        find_at(recipe, hub=NO_HUB, patch=monkeypatch, cache=tmp_path)


def test_a_model_in_the_hubs_cache_needs_no_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "models--org--name"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    (kept / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (kept / "snapshots" / ("0" * 40) / "config.json").write_text(json.dumps({"model_type": "t5"}))
    recipe = recipe_with(tmp_path, text={"kind": "t5", "path": "org/name"})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    find_at(recipe, hub=NO_HUB, patch=monkeypatch, cache=tmp_path)


def test_a_folder_with_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    recipe = recipe_with(tmp_path, text={"kind": "clip", "path": str(tmp_path)})
    with pytest.raises(UserError, match=r"text\.path=.*: holds a t5, wanted clip"):
        find_encoders(recipe)


def test_the_command_ends_with_2_before_it_leaves_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_tree(tmp_path) | {"text": {"kind": "t5", "path": MISSING}}))
    with empty_hub() as hub:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", "train", str(path), "--local"],
            cwd=ROOT,
            env=os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hub")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert f"text.path={MISSING}: seen" in done.stderr
    assert not (tmp_path / "clips").exists()
    assert not list((tmp_path / "runs" / "tiny").glob("*"))
