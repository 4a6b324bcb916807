"""The perceptual distance of upsamplers, with small weights read by the real loader."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.sora.autoencoder_config import PerceptualConfig
from models.sora.perceptual import PerceptualDistance
from orchestrator.data.sources import ensure_sources
from orchestrator.errors import UserError
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.train.evaluate import evaluate
from orchestrator.train.evaluation.baselines import blend, repeat
from orchestrator.train.evaluation.held_out import read_held_out
from orchestrator.train.evaluation.report import Report
from orchestrator.train.evaluation.upsamplers import lpips
from orchestrator.train.views import FRAMES
from orchestrator.train.worker import run
from tests.cascades import imagen_tree
from tests.groups import leave_group
from tests.models.test_autoencoder_perceptual import vgg_weights
from tests.train.workers import Recorded, job_of

CPU = torch.device("cpu")
CLIPS, LENGTH = 4, 4  # of tsr1
ALL = CLIPS * LENGTH  # frames


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("vgg") / "vgg.safetensors"
    save_file(vgg_weights(), file)
    return file


@pytest.fixture(scope="module")
def distance(weights: Path) -> PerceptualDistance:
    return PerceptualDistance(PerceptualConfig(path=str(weights)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run in which the first upsampling network is finished; it needs no other."""
    folder = tmp_path_factory.mktemp("upsampler")
    recipe = recipe_of(folder)
    ensure_sources(recipe, on_clips=lambda *_: None)
    job = job_of(recipe, "tsr1", run_uri=f"{folder}/run")
    assert run(job, hooks=Recorded()).status == "done"
    yield folder
    leave_group()


def recipe_of(folder: Path, **fields: object) -> Recipe:
    tree = imagen_tree(folder)
    tree["stages"] = [one for one in tree["stages"] if one["id"] in ("base", "tsr1")]
    spec = {"model": "tsr1", "metric": "upsamplers", "prompts": CLIPS, **fields}
    return parse_recipe(
        {**tree, "stages": [*tree["stages"], {"id": "e", "evaluate": spec}]}, origin="tiny"
    )


def report(folder: Path, **fields: object) -> Report:
    recipe = recipe_of(folder, **fields)
    evaluate(job_of(recipe, "e", run_uri=f"{folder}/run"), hooks=Recorded())
    return json.loads((folder / "run" / "stages" / "e" / "report.json").read_text())


def clips(seed: int) -> Tensor:
    return torch.rand((5, 3, 7, 8, 8), generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("batch", [1, 3, 35])
def test_the_distance_in_parts_is_that_at_once(distance: PerceptualDistance, batch: int) -> None:
    x, true = clips(1), clips(2)
    parts = lpips(x, true, distance=distance, batch=batch, device=CPU)
    # Float32 means of other groups of frames.
    assert parts == pytest.approx(distance(x, true).item(), rel=1e-5)
    assert lpips(x, x, distance=distance, batch=batch, device=CPU) == 0.0


def test_the_report_holds_the_distance_of_the_network_and_of_interpolation(
    folder: Path, weights: Path, distance: PerceptualDistance
) -> None:
    at_once, parts = (report(folder, perceptual=str(weights), batch=batch) for batch in (ALL, 3))
    for name in ("network", "repeat", "blend"):
        # Clips are sampled in other batches too, which rounds differently.
        assert parts[f"tsr1/{name}-lpips"] == pytest.approx(at_once[f"tsr1/{name}-lpips"], rel=1e-4)
    recipe = recipe_of(folder)
    true = read_held_out(recipe, recipe.stage("tsr1"), count=CLIPS).pixels[FRAMES]
    for plain in (repeat, blend):
        made = plain(true[:, :, ::2], factor=2, frames=LENGTH)
        found = at_once[f"tsr1/{plain.__name__}-lpips"]
        assert found == pytest.approx(distance(made, true).item(), rel=1e-5)
    assert at_once["tsr1/network-lpips"] > 0


def test_weights_that_cannot_be_read_are_one_line(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "vgg.safetensors"
    file.write_bytes(b"none")
    wanted = r"^stages\.e\.evaluate\.perceptual=\S+vgg\.safetensors cannot be read: .*$"
    with pytest.raises(UserError, match=wanted):
        report(folder, perceptual=str(file))
