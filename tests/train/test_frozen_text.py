"""A frozen text encoder is read by the encode stage; a denoiser of latents trains without it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models.text.encoder import TextEncoder
from orchestrator.data.sources import ensure_sources
from orchestrator.plan.graph import input_digest
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import open_store
from orchestrator.train import encoders
from orchestrator.train.encoders import load_text
from orchestrator.train.text_states import StoredText, TextTable
from tests.groups import leave_group
from tests.models.test_text_pretrained import save_t5
from tests.tiny import tiny_tree
from tests.train.test_worker import finish_stage

pytestmark = pytest.mark.usefixtures("one_process")

PROMPT = "a red three moving left"


def recipe_with(folder: Path, *prompts: str) -> Recipe:
    tree = tiny_tree(folder)
    tree["text"] = {"kind": "t5", "path": str(folder / "t5"), "max_length": 32}
    dit = next(stage for stage in tree["stages"] if stage["id"] == "dit")
    dit["train"]["preview"]["prompts"] = list(prompts)
    return parse_recipe(tree, origin="tiny")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to its latents."""
    folder = tmp_path_factory.mktemp("frozen")
    save_t5(folder / "t5")
    recipe = recipe_with(folder, PROMPT)
    ensure_sources(recipe, on_clips=lambda *_: None)
    for stage in ("autoencoder", "encode"):
        finish_stage(recipe, stage, run_uri=f"{folder}/run")
        leave_group()
    return folder


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[TextEncoder]:
    """The text encoders that are loaded."""
    found: list[TextEncoder] = []
    build = encoders.build_text_encoder

    def building(config: Any) -> TextEncoder:
        found.append(build(config))
        return found[-1]

    monkeypatch.setattr(encoders, "build_text_encoder", building)
    return found


def fresh(encoded: Path, name: str) -> str:
    stages = encoded / name / "stages"
    stages.mkdir(parents=True)
    for stage in ("autoencoder", "encode"):
        (stages / stage).symlink_to(encoded / "run" / "stages" / stage)
    return f"{encoded}/{name}"


def test_a_denoiser_trains_and_is_previewed_without_the_encoder(
    encoded: Path, loads: list[TextEncoder]
) -> None:
    uri = fresh(encoded, "plain")
    finish_stage(recipe_with(encoded, PROMPT), "dit", run_uri=uri)
    assert not loads
    assert (Path(uri) / "stages/dit/samples/step-00000006.gif").is_file()


def test_another_prompt_is_encoded_when_it_is_sampled(
    encoded: Path, loads: list[TextEncoder]
) -> None:
    uri = fresh(encoded, "changed")
    recipe = recipe_with(encoded, PROMPT, "up", "up")
    finish_stage(recipe, "dit", run_uri=uri)
    assert len(loads) == 1
    assert (Path(uri) / "stages/dit/samples/step-00000006.gif").is_file()


def test_another_prompt_keeps_the_latents(tmp_path: Path) -> None:
    before, after = (recipe_with(tmp_path, *prompts) for prompts in ((PROMPT,), ("up", "down")))
    data = {"train": "0" * 64, "eval": "0" * 64}
    assert len({input_digest(one, one.stage("encode"), data=data) for one in (before, after)}) == 1


def test_stored_states_are_those_of_the_encoder(encoded: Path) -> None:
    table = TextTable.read(open_store(f"{encoded}/run"), folder="stages/encode")
    text = load_text(recipe_with(encoded, PROMPT).text)
    captions = [PROMPT, "", PROMPT]
    answers = []
    for encoder in (text, StoredText(table.captions())):
        tokens = encoder.tokenize(captions)
        answers.append(encoder(tokens.ids_BL, tokens.mask_BL))
    wanted, found = answers
    assert torch.equal(found.mask_BL, wanted.mask_BL)
    # Real tokens only: what stands in the padding is nobody's business.
    mask_BL1 = wanted.mask_BL[..., None]
    torch.testing.assert_close(found.tokens_BLD * mask_BL1, wanted.tokens_BLD * mask_BL1)
    torch.testing.assert_close(found.pooled_BD, wanted.pooled_BD)
