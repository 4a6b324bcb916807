"""Which numbers of workers a stage may run with."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import UserError
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.stage import Stage
from tests.tiny import tiny_tree

SIZES = st.integers(1, 12)


def stage_of(*, batch: int, micro_batch: int, workers: int, min_workers: int | None) -> Stage:
    tree = tiny_tree("/nowhere")
    first: dict[str, Any] = tree["stages"][0]
    first["train"] |= {"batch": batch, "micro_batch": micro_batch}
    first["compute"] = {"workers": workers, "min_workers": min_workers}
    return parse_recipe(tree | {"stages": [first]}, origin="sizes").stages[0]


@given(least=SIZES, factor=SIZES, micro_batch=st.integers(1, 4), passes=st.integers(1, 6))
def test_every_legal_size_trains_the_same_batch(
    least: int, factor: int, micro_batch: int, passes: int
) -> None:
    workers = least * factor
    batch = micro_batch * workers * passes
    stage = stage_of(batch=batch, micro_batch=micro_batch, workers=workers, min_workers=least)
    assert stage.legal_ranks[0] == least
    assert stage.legal_ranks[-1] == workers
    for ranks in range(least, workers + 1):
        clips = stage.accumulation(ranks=ranks) * micro_batch * ranks
        assert (clips == batch) is (ranks in stage.legal_ranks), ranks


def test_a_size_between_that_does_not_divide_is_skipped() -> None:
    assert stage_of(batch=8, micro_batch=2, workers=4, min_workers=1).legal_ranks == (1, 2, 4)
    assert stage_of(batch=8, micro_batch=2, workers=4, min_workers=None).legal_ranks == (4,)


@pytest.mark.parametrize(
    ("workers", "least", "named"),
    [(4, 3, "micro_batch*min_workers=1*3=3"), (3, 1, "micro_batch*workers=1*3=3")],
)
def test_the_sizes_that_a_recipe_names_must_divide(workers: int, least: int, named: str) -> None:
    with pytest.raises(UserError) as refused:
        stage_of(batch=4, micro_batch=1, workers=workers, min_workers=least)
    assert f"train.batch=4 is not a multiple of {named}" in str(refused.value)
