"""Stages that train on windows of longer and larger clips."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.data.buckets import parse_bucket
from orchestrator.data.decode import npy_bytes
from orchestrator.data.fit import fit_array
from orchestrator.data.index import Index, write_index
from orchestrator.data.shards import write_shard
from orchestrator.data.sources import ensure_sources
from orchestrator.errors import UserError
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import open_store
from orchestrator.train.evaluation.held_out import read_held_out
from orchestrator.train.job import StageJob
from orchestrator.train.ranks import Ranks
from orchestrator.train.sources import check_clips, open_stream
from tests.cascades import imagen_recipe
from tests.data.clips import frames_of, new_clip
from tests.groups import leave_group
from tests.tiny import tiny_tree
from tests.train.test_worker import finish_stage

pytestmark = pytest.mark.usefixtures("one_process")

ALONE = Ranks(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
STORED = (30, 36, 48)
CLIPS = 4


def write_films(uri: str, bucket: str) -> Index:
    """Clips of STORED at 24 frames per second, cut from a film, that training sees in a bucket."""
    store = open_store(uri)
    clips = [
        replace(
            new_clip(number, STORED),
            members={"npy": npy_bytes(frames_of(number, STORED))},
            fps=24.0,
            original="film.mp4",
            start_s=10.0 * number,
            end_s=10.0 * number + 30 / 24,
            seen_as=parse_bucket(bucket),
        )
        for number in range(CLIPS)
    ]
    write_index(store, [write_shard(store, "a.tar", clips)], origin={})
    return Index.open(uri)


def tiny_on_films(folder: Path, bucket: str) -> Recipe:
    """The tiny recipe on such clips in place of digits."""
    tree = tiny_tree(folder)
    for name in ("train", "eval"):
        write_films(tree["data"][name]["uri"], bucket)
        del tree["data"][name]["digits"]
    tree["stages"][2]["train"]["preview"] = None
    return parse_recipe(tree, origin="tiny")


def test_first_windows_are_encoded_and_trained_on(tmp_path: Path) -> None:
    recipe = tiny_on_films(tmp_path, "9x32x32@8")
    check_clips(recipe, ensure_sources(recipe, on_clips=lambda *_: None))
    for stage in ("autoencoder", "encode", "dit"):
        finish_stage(recipe, stage, run_uri=f"{tmp_path}/run")
        leave_group()
    latents = Index.open(f"{tmp_path}/run/stages/encode/latents")
    assert latents.buckets == {(9, 32, 32): list(range(CLIPS))}
    for row in range(CLIPS):
        sample = latents.sample(row)
        assert (sample.fps, sample.is_windowed) == (8.0, False)
        assert (sample.start_s, sample.end_s) == (10.0 * row, 10.0 * row + 9 / 8)


def test_the_bucket_must_fit_the_network_whatever_is_stored(tmp_path: Path) -> None:
    recipe = tiny_on_films(tmp_path, "10x32x32@8")
    with pytest.raises(UserError, match=r"clips of 10x32x32, wanted 4k\+1 frames for stage"):
        check_clips(recipe, ensure_sources(recipe, on_clips=lambda *_: None))


def test_views_are_made_of_windows(tmp_path: Path) -> None:
    tree = imagen_recipe(tmp_path).model_dump(mode="json")
    for name in ("train", "eval"):
        write_films(tree["data"][name]["uri"], "8x16x16@8")
        tree["data"][name]["digits"] = None
    recipe = Recipe.model_validate_json(json.dumps(tree))
    check_clips(recipe, ensure_sources(recipe, on_clips=lambda *_: None))
    job = StageJob(recipe=recipe, stage="ssr2", run=f"{tmp_path}/run", attempt=1)
    with closing(open_stream(job, ranks=ALONE)) as stream:
        batch = stream.next()
    assert batch.plan.bucket == (8, 16, 16)
    assert set(batch.fps) == {8.0}
    sizes = {name: view.shape for name, view in batch.samples[0].items()}
    assert sizes["frames"] == (8, 16, 16, 3)
    assert sizes["low"][0] == 8
    held_out = read_held_out(recipe, recipe.stage("ssr2"), count=2)
    first = frames_of(0, STORED)[: 8 * 3 : 3]
    seen_THWC = held_out.pixels["frames"][0].permute(1, 2, 3, 0).numpy() * 127.5 + 127.5
    np.testing.assert_allclose(seen_THWC, fit_array(first, size=(16, 16)), atol=1e-3)
