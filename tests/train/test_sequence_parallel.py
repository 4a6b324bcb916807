"""Ranks that share the tokens of a clip compute what one rank does."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from models.sora.dit_config import DiTConfig
from orchestrator.cascade.local_executor import LocalExecutor
from orchestrator.data.sources import ensure_sources
from orchestrator.errors import UserError
from orchestrator.launch.sample import sample_run
from orchestrator.recipe.load import parse_recipe
from orchestrator.train.job import StageJob
from orchestrator.train.token_group import sampling_ranks
from tests.models.dits import FUSIONS, fresh
from tests.numerics.gang import Gang
from tests.tiny import STEPS, tiny_tree
from tests.train.token_groups import (
    How,
    attention_of_deepspeed,
    loss_and_gradients,
    of_clips,
    of_prompts,
    sample_files,
    sampled,
    settled,
    train_until,
)

pytestmark = pytest.mark.slow

RANKS = 4
# Float32, each number a sum over tokens that ranks add up in another order.
TOLERANCE = 1e-5
NETWORKS = {name: one.model_copy(update={"heads": 4}) for name, one in FUSIONS.items()}
NETWORKS["given_frames"] = NETWORKS["cross"].model_copy(update={"condition_frames": True})
every_network = pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)


@pytest.fixture(scope="module")
def gang(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gang]:
    with closing(Gang(world_size=RANKS, folder=tmp_path_factory.mktemp("group"))) as gang:
        yield gang


def assert_equal_to_one_rank(
    gang: Gang, config: DiTConfig, size: tuple[int, int, int], *, sharing: int, how: How
) -> None:
    given = {"config": config.model_dump_json(), "size": size}
    loss, gradients = of_clips(**given)
    for shared_loss, shared in gang.run(loss_and_gradients, **given, sharing=sharing, how=how):
        assert shared_loss == pytest.approx(float(loss), rel=TOLERANCE)
        assert shared.keys() == gradients.keys()
        largest = max(float(gradient.abs().max()) for gradient in gradients.values())
        for name, gradient in gradients.items():
            # A small gradient is what is left of large sums, but no factor of it may be lost.
            own = 1e-3 * float(gradient.abs().max())
            torch.testing.assert_close(
                torch.from_numpy(shared[name]),
                gradient,
                rtol=0,
                atol=min(TOLERANCE * largest, own),
                msg=lambda text, name=name: f"{name}: {text}",
            )


@every_network
@pytest.mark.parametrize("sharing", [2, 4])
def test_loss_and_gradients_are_those_of_one_rank(
    gang: Gang, config: DiTConfig, sharing: int
) -> None:
    assert_equal_to_one_rank(gang, config, (2, 4, 4), sharing=sharing, how="plain")


@every_network
@pytest.mark.parametrize("size", [(3, 2, 2), (5, 2, 2), (1, 2, 2)], ids=["3", "5", "1"])
def test_tokens_that_do_not_split_are_padded(
    gang: Gang, config: DiTConfig, size: tuple[int, int, int]
) -> None:
    assert_equal_to_one_rank(gang, config, size, sharing=4, how="plain")


@every_network
def test_recomputed_blocks_exchange_again(gang: Gang, config: DiTConfig) -> None:
    assert_equal_to_one_rank(gang, config, (2, 4, 4), sharing=2, how="recomputed")


def test_compiled_blocks_exchange_between_their_graphs(gang: Gang) -> None:
    config = NETWORKS["dual_single"]
    assert_equal_to_one_rank(gang, config, (2, 4, 4), sharing=2, how="compiled")


@pytest.mark.parametrize("sharing", [2, 4])
def test_sampled_clips_are_those_of_one_rank(gang: Gang, sharing: int) -> None:
    alone = of_prompts()
    assert np.abs(alone[0] - alone[1]).max() > 0.1
    for clips in gang.run(sampled, sharing=sharing):
        np.testing.assert_allclose(clips, alone, rtol=0, atol=TOLERANCE)


def tree_of(folder: Path, **compute: Any) -> dict[str, Any]:
    tree = tiny_tree(folder)
    dit = tree["stages"][2]
    dit["train"] |= {"model": dit["train"]["model"] | {"heads": 4}, "log_every": 2}
    dit["compute"] = compute
    return tree


def job_of(folder: Path, *, run: str, stage: str = "dit", **compute: Any) -> StageJob:
    tree = tree_of(folder, **compute)
    recipe = parse_recipe(tree | {"data": tree["data"] | {"audit": True}}, origin="tiny")
    return StageJob(recipe=recipe, stage=stage, run=f"{folder}/{run}", attempt=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With one plain process's training of every stage."""
    folder = tmp_path_factory.mktemp("shared")
    executor = LocalExecutor(logs=folder / "logs")
    for stage in ("autoencoder", "encode", "dit"):
        job = job_of(folder, run="plain", stage=stage, workers=0)
        ensure_sources(job.recipe, on_clips=lambda *_: None)
        assert executor.run(job, on_event=lambda _: None, stop=threading.Event()).status == "done"
        if dist.is_initialized():
            dist.destroy_process_group()
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gang]:
    with closing(Gang(world_size=2, folder=tmp_path_factory.mktemp("pair"))) as gang:
        yield gang


def new_run(folder: Path, run: str) -> None:
    stages = folder / run / "stages"
    stages.mkdir(parents=True)
    for stage in ("autoencoder", "encode"):
        (stages / stage).symlink_to(folder / "plain" / "stages" / stage)


def test_attention_is_deepspeeds_over_its_groups(gang: Gang) -> None:
    for theirs, ours in gang.run(attention_of_deepspeed):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def write_recipe(folder: Path) -> None:
    """Makes the plain process's stages a run to be sampled."""
    tree = job_of(folder, run="plain", workers=0).recipe.model_dump(mode="json")
    (folder / "plain" / "recipe.json").write_text(json.dumps({"recipe": tree}))


def curve(folder: Path, run: str) -> list[float]:
    """Losses and gradient norms."""
    path = folder / run / "stages" / "dit" / "metrics.jsonl"
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(2, STEPS + 1, 2))
    return [row[name] for row in rows for name in ("loss", "grad_norm/denoiser")]


@pytest.mark.parametrize(
    ("sharing", "zero"), [(2, 0), (2, 1), (2, 2), (2, 3), (4, 0), (4, 2), (4, 3)]
)
def test_a_stage_trains_as_one_plain_process(
    folder: Path, gang: Gang, sharing: int, zero: int
) -> None:
    run = f"sharing-{sharing}-zero-{zero}"
    new_run(folder, run)
    job = job_of(folder, run=run, workers=RANKS, zero=zero, sequence_parallel=sharing)
    assert gang.run(train_until, job=job.model_dump_json()) == [("done", STEPS)] * RANKS
    # Six steps of AdamW let rounding grow, as in tests/numerics/test_recipe_curves.py.
    assert curve(folder, run) == pytest.approx(curve(folder, "plain"), rel=2e-5)
    stage = folder / run / "stages" / "dit"
    assert list((stage / "samples").glob("*.gif"))
    # A clip that a group took is put down once.
    assert {part.name for part in stage.glob("audit/*/*")} == {
        f"rank-{reader:05d}-of-{RANKS // sharing:05d}.jsonl" for reader in range(RANKS // sharing)
    }


@pytest.mark.parametrize("then", [1, 2])
def test_a_stage_goes_on_with_other_groups(folder: Path, gang: Gang, pair: Gang, then: int) -> None:
    """Stopped between two logged steps of four ranks, all of them one group."""
    run = f"resumed-{then}"
    new_run(folder, run)
    first = job_of(folder, run=run, workers=RANKS, zero=3, sequence_parallel=4)
    stopped = gang.run(train_until, job=first.model_dump_json(), stop_after=3)
    assert stopped == [("stopped", 3)] * RANKS
    second = job_of(folder, run=run, workers=2, zero=1, sequence_parallel=then)
    assert pair.run(train_until, job=second.model_dump_json()) == [("done", STEPS)] * 2
    assert curve(folder, run) == pytest.approx(curve(folder, "plain"), rel=2e-5)


@pytest.mark.parametrize("bad_on", [[0], [1, 2]], ids=["one", "two"])
def test_a_clip_that_is_bad_for_one_rank_is_left_out_by_those_that_share_it(
    gang: Gang, bad_on: list[int]
) -> None:
    found = gang.run(settled, bad_on=bad_on)
    assert found == [(["another", f"second-{reader}"], 1.0) for reader in (0, 0, 1, 1)]


def test_groups_that_agree_read_nothing_again(gang: Gang) -> None:
    found = gang.run(settled, bad_on=[0, 1])
    assert [keys[0] for keys, _ in found] == ["another", "another", "first", "first"]


def test_sampling_a_run_writes_what_one_process_writes(
    folder: Path, pair: Gang, tmp_path: Path
) -> None:
    write_recipe(folder)
    run, (alone, shared) = f"{folder}/plain", (tmp_path / "alone", tmp_path / "shared")
    prompts = ["a red three moving left", "a blue nine"]
    sample_run(
        run,
        prompts,
        out=alone,
        seed=1,
        npz=True,
        distilled=True,
        on_clips=lambda _: None,
    )
    first, second = pair.run(sample_files, run=run, prompts=prompts, out=str(shared))
    assert (sorted(first), second) == (sorted(path.name for path in alone.iterdir()), [])
    for name in ("0000.npz", "0001.npz"):
        frames, wanted = (np.load(at / name)["frames"].astype(int) for at in (shared, alone))
        # Rounding may take a value over the edge to the next whole number.
        assert np.abs(frames - wanted).max() <= 1


def test_more_processes_than_split_the_heads_sample_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    recipe = parse_recipe(tree_of(Path("/nowhere")), origin="tiny")
    with pytest.raises(UserError, match=r"WORLD_SIZE=3: stages\.dit\.train\.model has 4 heads"):
        sampling_ranks(recipe.stage("dit"))
    with pytest.raises(UserError, match=r"seen .*kind=video_autoencoder, wanted one process"):
        sampling_ranks(recipe.stage("autoencoder"))


def test_heads_that_do_not_split_are_refused() -> None:
    class Three:
        size, index = 3, 0

    with pytest.raises(ValueError, match="heads=2, wanted a multiple of 3"):
        fresh(FUSIONS["cross"]).share_tokens(Three())  # pyright: ignore[reportArgumentType]
