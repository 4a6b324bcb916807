"""A rank that the others wait for is named, once."""

from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.data.sources import ensure_sources
from orchestrator.recipe.load import parse_recipe
from orchestrator.train.stragglers import WINDOWS, Stragglers
from tests.numerics.gang import Gang
from tests.tiny import tiny_tree
from tests.train import slow

NODES = ("node-a", "node-b", "node-c", "node-d")
EVEN, SLOW = (1.0, 1.1, 1.0, 0.9), (1.0, 1.1, 1.0, 1.6)


def said(windows: list[tuple[float, ...]], *, steps: int = 10) -> list[str]:
    stragglers = Stragglers(NODES)
    return [note for own_s in windows for note in stragglers.notes(own_s, steps=steps)]


def test_a_slow_rank_is_named_with_its_node() -> None:
    (note,) = said([SLOW] * WINDOWS)
    assert note.startswith("rank 3 on node-d is slow: 1.6 s of its own per step")
    assert "the middle rank 1 s" in note


def test_it_is_named_once_per_episode() -> None:
    assert len(said([SLOW] * 3 * WINDOWS)) == 1
    assert len(said([*[SLOW] * 3 * WINDOWS, EVEN, *[SLOW] * WINDOWS])) == 2


def test_windows_are_in_a_row() -> None:
    assert said([*[SLOW] * (WINDOWS - 1), EVEN] * 4) == []


def test_of_two_ranks_the_slower_one_is_named() -> None:
    stragglers = Stragglers(NODES[:2])
    notes = [stragglers.notes((1.6, 1.0), steps=1) for _ in range(WINDOWS)]
    assert [bool(one) for one in notes] == [False, False, True]


def test_hundredths_of_a_second_are_noise() -> None:
    assert said([tuple(own / 1000 for own in SLOW)] * WINDOWS) == []


def test_the_slowest_and_the_middle_rank_are_logged() -> None:
    assert Stragglers(NODES).metrics((1.0, 4.0, 2.0, 3.0)) == {
        "ranks/slowest": 1.0,
        "ranks/slowest_step_s": 4.0,
        "ranks/median_step_s": 2.0,
    }


@pytest.mark.slow
def test_a_rank_that_is_slower_in_a_real_gang_is_found(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path, workers=2)
    recipe = parse_recipe(tree, origin="tiny")
    ensure_sources(recipe, on_clips=lambda *_: None)
    with closing(Gang(world_size=2, folder=tmp_path)) as gang:
        events = gang.run(
            slow.train,
            recipe=recipe.model_dump_json(),
            run_uri=f"{tmp_path}/run",
            slow_rank=1,
            delay_s=1.0,
        )[0]
    notes = [event["text"] for event in events if event["kind"] == "note"]
    (note,) = [text for text in notes if "is slow" in text]
    assert note.startswith("rank 1 on ")
    values = [event["values"] for event in events if event["kind"] == "metrics"]
    assert {one["ranks/slowest"] for one in values} == {1.0}
    assert min(one["ranks/slowest_step_s"] for one in values) > 1.0
    assert max(one["ranks/median_step_s"] for one in values) < 1.0
