"""Beats of a real gang: they go on while a rank waits, and say in what."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.sources import ensure_sources
from orchestrator.recipe.load import parse_recipe
from orchestrator.train.ledger import CATEGORIES
from tests.numerics.gang import Gang
from tests.tiny import tiny_tree
from tests.train import beats

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gang(tmp_path_factory: pytest.TempPathFactory):
    with closing(Gang(world_size=2, folder=tmp_path_factory.mktemp("beats"))) as gang:
        yield gang


@pytest.fixture(scope="module")
def heard(gang: Gang, tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """Beats of both ranks of a whole stage."""
    folder = tmp_path_factory.mktemp("stage")
    recipe = parse_recipe(tiny_tree(folder, workers=2), origin="tiny")
    ensure_sources(recipe, on_clips=lambda *_: None)
    return gang.run(beats.of_a_stage, recipe=recipe.model_dump_json(), run_uri=f"{folder}/run")


def test_a_rank_that_waits_in_a_collective_beats_on_and_says_so(gang: Gang, tmp_path: Path) -> None:
    waiting, _ = gang.run(beats.while_rank_0_waits, go=str(tmp_path / "go"))
    last = waiting[-1]
    assert last["phase"] == "communication"
    assert last["collective"]["returned"] is False
    assert last["described"]["name"] == "all_reduce"
    assert last["described"]["shapes"] == [[7]]
    assert last["described"]["dtypes"] == ["Float"]
    assert last["described"]["number"] == last["collective"]["number"]
    assert [one["name"] for one in last["stack"]][-1] == "all_reduce"
    assert "while_rank_0_waits" in [one["name"] for one in last["stack"]]


def test_a_collective_that_has_returned_is_told_from_one_that_has_not(
    gang: Gang, tmp_path: Path
) -> None:
    _, arrived = gang.run(beats.while_rank_0_waits, go=str(tmp_path / "go"))
    before, after = arrived[0]["collective"], arrived[-1]["collective"]
    assert before["returned"]
    assert after["returned"]
    assert after["number"] == before["number"] + 1


def test_every_rank_beats_as_one_gang(heard: list[list[dict[str, Any]]]) -> None:
    everything = [beat for of_rank in heard for beat in of_rank]
    assert [{beat["rank"] for beat in of_rank} for of_rank in heard] == [{0}, {1}]
    assert len({beat["gang"] for beat in everything}) == 1
    assert {(beat["stage"], beat["ranks"]) for beat in everything} == {("autoencoder", 2)}
    assert len({beat["pid"] for beat in everything}) == 2


def test_a_beat_accounts_for_all_time_of_its_process(heard: list[list[dict[str, Any]]]) -> None:
    for beat in (beat for of_rank in heard for beat in of_rank):
        assert tuple(beat["seconds"]) == CATEGORIES
        # Doubles of seconds since 1970 are 2.4e-7 s apart.
        wanted = beat["time"] - beat["started"]
        assert sum(beat["seconds"].values()) == pytest.approx(wanted, abs=1e-6)


def test_the_last_beat_is_of_the_last_step(heard: list[list[dict[str, Any]]]) -> None:
    for of_rank in heard:
        assert [beat.get("last", False) for beat in of_rank] == [False] * (len(of_rank) - 1) + [
            True
        ]
        assert of_rank[-1]["step"] == 6
        spent = of_rank[-1]["seconds"]
        told = ("start_up", "data_wait", "compute", "communication", "save_blocked")
        assert all(spent[name] > 0 for name in told)
        assert spent["compile"] == 0
