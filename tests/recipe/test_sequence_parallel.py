"""Which recipes may share the tokens of a clip between ranks."""

from typing import Any

import pytest

from orchestrator.errors import UserError
from orchestrator.recipe.digest import recipe_digest
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from tests.tiny import tiny_recipe, tiny_tree

DIT = 2  # its place among the stages; it has 2 heads


def recipe_of(*, stage: int = DIT, heads: int = 4, **compute: Any) -> Recipe:
    tree = tiny_tree("/nowhere")
    tree["stages"][DIT]["train"]["model"]["heads"] = heads
    tree["stages"][stage]["compute"] = compute
    return parse_recipe(tree, origin="tiny")


def refusal(**fields: Any) -> str:
    with pytest.raises(UserError) as refused:
        recipe_of(**fields)
    text = str(refused.value)
    assert "\n" not in text
    return text


def test_a_group_counts_as_one_reader_of_the_batch() -> None:
    # Batch 4, micro-batch 2.
    stage = recipe_of(workers=4, sequence_parallel=2).stage("dit")
    assert stage.accumulation(ranks=4) == 1
    assert stage.accumulation(ranks=2) == 2
    assert not stage.splits_over(3)
    elastic = recipe_of(workers=4, min_workers=2, sequence_parallel=2).stage("dit")
    assert elastic.legal_ranks == (2, 4)


def test_it_changes_nothing_of_what_a_recipe_computes() -> None:
    shared = recipe_of(heads=2, workers=2, sequence_parallel=2)
    assert recipe_digest(shared) == recipe_digest(tiny_recipe("/nowhere"))


def test_heads_that_do_not_split_are_refused() -> None:
    assert "stages.dit.compute.sequence_parallel=4 with train.model.heads=2" in refusal(
        heads=2, workers=4, sequence_parallel=4
    )


@pytest.mark.parametrize(
    ("compute", "named"),
    [
        ({"workers": 3}, "compute.workers=3"),
        ({"workers": 4, "min_workers": 1}, "compute.min_workers=1"),
    ],
)
def test_workers_that_do_not_split_are_refused(compute: dict[str, int], named: str) -> None:
    text = refusal(sequence_parallel=2, **compute)
    assert f"{named}, wanted a multiple of compute.sequence_parallel=2" in text


def test_one_plain_process_has_no_one_to_share_with() -> None:
    text = refusal(sequence_parallel=2, workers=0)
    assert "compute.workers=0 is one process, wanted at least compute.sequence_parallel=2" in text


def test_a_batch_that_does_not_split_over_the_groups_is_refused() -> None:
    text = refusal(workers=6, sequence_parallel=2)
    assert "batch=4 is not a multiple of micro_batch*workers/sequence_parallel=2*6/2=6" in text


@pytest.mark.parametrize(
    ("stage", "seen"), [(0, "video_autoencoder"), (1, "(encode)"), (3, "(evaluate)")]
)
def test_other_stages_have_no_tokens_to_share(stage: int, seen: str) -> None:
    text = refusal(stage=stage, workers=2, sequence_parallel=2)
    assert "compute.sequence_parallel=2: ranks share tokens of a video_dit only" in text
    assert seen in text
