"""A stage trained on a mix of videos and images, with as many tokens in a step of either."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from orchestrator.data.sources import ensure_sources
from orchestrator.data.stream import Stream
from orchestrator.errors import UserError
from orchestrator.launch.audit import audit_run, print_audit
from orchestrator.recipe.digest import recipe_tree
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.train.budget import multiples, tokens
from orchestrator.train.job import StageJob
from orchestrator.train.ranks import Ranks
from orchestrator.train.sources import open_stream
from orchestrator.train.worker import run
from tests.groups import leave_group
from tests.numerics.gang import Gang
from tests.tiny import tiny_tree
from tests.train.workers import Recorded, run_rank

pytestmark = pytest.mark.usefixtures("one_process")

VIDEO, IMAGE = (9, 32, 32), (1, 32, 32)
STEPS = 8


def mixed_tree(folder: Path, *, workers: int = 0) -> dict[str, Any]:
    tree = tiny_tree(folder, workers=workers)
    first = tree["stages"][0]
    first["train"] |= {"steps": STEPS, "batch_by": "tokens"}
    if workers:
        first["compute"]["min_workers"] = 1
    stills = {"clips": 20, "shapes": [{"frames": 1, "size": [32, 32]}]}
    tree["data"] |= {"audit": True, "workers": 3}
    tree["data"]["train"] = {
        "mix": {
            "films": {"uri": f"{folder}/clips/films", "digits": {"clips": 24}, "weight": 3},
            "stills": {"uri": f"{folder}/clips/stills", "digits": stills},
        }
    }
    return tree | {"stages": [first]}


def job_of(folder: Path, *, name: str, workers: int = 0) -> StageJob:
    recipe = parse_recipe(mixed_tree(folder, workers=workers), origin="mixed")
    ensure_sources(recipe, on_clips=lambda *_: None)
    place = folder / name
    place.mkdir(exist_ok=True)
    (place / "recipe.json").write_text(json.dumps({"recipe": recipe_tree(recipe)}))
    return StageJob(recipe=recipe, stage="autoencoder", run=str(place), attempt=1)


def losses(job: StageJob) -> list[float]:
    text = (Path(job.run) / "stages/autoencoder/metrics.jsonl").read_text()
    return [json.loads(line)["loss"] for line in text.splitlines()]


def told(job: StageJob) -> str:
    console = Console(record=True, width=100)
    print_audit(audit_run(job.run, on_steps=lambda *_: None), console=console)
    return console.export_text()


def test_a_step_of_images_holds_as_many_tokens_as_one_of_videos(tmp_path: Path) -> None:
    recipe: Recipe = job_of(tmp_path, name="run").recipe
    stage = recipe.stages[0]
    assert (tokens(recipe, stage, bucket=VIDEO), tokens(recipe, stage, bucket=IMAGE)) == (48, 16)
    assert multiples(recipe, stage, buckets=[VIDEO, IMAGE]) == {VIDEO: 1, IMAGE: 3}


def test_a_mix_goes_on_bit_by_bit_and_at_other_sizes(tmp_path: Path) -> None:
    straight = job_of(tmp_path, name="straight")
    assert run(straight, hooks=Recorded()).status == "done"
    leave_group()
    stopped = job_of(tmp_path, name="stopped")
    assert run(stopped, hooks=Recorded(stop_after=3)).status == "stopped"
    leave_group()
    assert run(stopped, hooks=Recorded()).status == "done"
    leave_group()
    assert losses(stopped) == losses(straight)
    wider = job_of(tmp_path, name="wider")
    assert run(wider, hooks=Recorded(stop_after=3)).status == "stopped"
    leave_group()
    gang = Gang(world_size=2, folder=tmp_path)
    try:
        wide = job_of(tmp_path, name="wider", workers=2)
        gang.run(run_rank, job=wide.model_dump_json())
    finally:
        gang.close()
    # Two ranks sum in another order.
    assert losses(wider) == pytest.approx(losses(straight), rel=2e-4)
    # Films have 3/4 of the clips and a third as many in a step: 9 steps of them to one of images.
    assert told(straight).splitlines() == [
        "autoencoder: 8 steps on 1 reader(s), 40 clips",
        "  films 28 clips (70.0%), stills 12 clips (30.0%)",
        "  stills 1x32x32: 12 of 20 clips of epoch 1",
        "  films 9x32x32: 1 whole epoch(s) of 24 clips, 4 of 24 clips of epoch 2",
    ]
    assert told(wider) == told(straight).replace("on 1 reader", "on 1, then 2 reader")


def test_a_mix_whose_entries_change_places_goes_on_with_the_same_clips(tmp_path: Path) -> None:
    def stream(*, is_swapped: bool) -> Stream:
        tree = mixed_tree(tmp_path)
        names = ("some", "others") if is_swapped else ("others", "some")  # of one shape
        clips = {name: f"{tmp_path}/clips/{name}" for name in names}
        mix = {name: {"uri": uri, "digits": {"clips": 24}} for name, uri in clips.items()}
        tree["data"]["train"] = {"mix": mix}
        recipe = parse_recipe(tree, origin="mixed")
        ensure_sources(recipe, on_clips=lambda *_: None)
        job = StageJob(recipe=recipe, stage="autoencoder", run=str(tmp_path), attempt=1)
        cpu = torch.device("cpu")
        return open_stream(job, ranks=Ranks(rank=0, world_size=1, local_rank=0, device=cpu))

    def drawn(stream: Stream) -> list[Any]:
        batches = [stream.read_step(step) for step in range(STEPS)]
        return [(one.parts, one.keys) for one in batches]

    straight, swapped = stream(is_swapped=False), stream(is_swapped=True)
    swapped.load_state_dict(json.loads(json.dumps(straight.state_dict())))
    assert drawn(swapped) == drawn(straight)


def test_a_hidden_clip_of_a_mix_is_found(tmp_path: Path) -> None:
    job = job_of(tmp_path, name="run")
    run(job, hooks=Recorded())
    for path in Path(job.run).glob("stages/autoencoder/audit/*/*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines[1:]:
            if "films" in line["parts"]:
                line["parts"][0] = "stills"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (found,) = audit_run(job.run, on_steps=lambda *_: None)
    assert any("is no clip of stills 9x32x32" in fault for fault in found.report.faults)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mix": {}}, "data.train.mix={}: Dictionary should have at least 1 item"),
        ({"mix": {"a": {"uri": "x", "weight": 0}}}, "data.train.mix.a.weight=0: Input should be"),
        ({"mix": {"a": {"url": "x"}}}, "data.train.mix.a.uri: missing, wanted a value"),
        ({"mix": {"A b": {"uri": "x"}}}, "data.train.mix.A b"),
        ({"uri": "x", "mix": {"a": {"uri": "x"}}}, "data.train.uri: unknown key"),
    ],
)
def test_a_wrong_mix_is_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    tree = mixed_tree(tmp_path)
    tree["data"]["train"] = change
    with pytest.raises(UserError) as error:
        parse_recipe(tree, origin="mixed")
    assert str(error.value).startswith(f"mixed: {message}")
    assert "\n" not in str(error.value)
