"""Settings as MLflow's flat parameters."""

import pytest

from orchestrator.tracking.params import clean_name, cut, flatten


def test_nested_settings_get_dotted_names_and_stages_their_id() -> None:
    tree = {
        "seed": 3,
        "text": {"kind": "byt5"},
        "stages": [{"id": "dit", "size": [16, 32], "ema": None, "compile": False}],
        "runs": "s3://bucket/runs",
        "tags": {},
    }
    assert flatten(tree) == {
        "seed": "3",
        "text.kind": "byt5",
        "stages.dit.id": "dit",
        "stages.dit.size": "[16, 32]",
        "stages.dit.ema": "null",
        "stages.dit.compile": "false",
        "runs": "s3://bucket/runs",
        "tags": "{}",
    }


def test_no_settings_are_no_parameters() -> None:
    assert flatten({}) == {}


def test_a_list_of_mappings_without_ids_is_numbered() -> None:
    assert flatten({"shapes": [{"frames": 1}, {"frames": 9}]}) == {
        "shapes.0.frames": "1",
        "shapes.1.frames": "9",
    }


@pytest.mark.parametrize("length", [5, 6])
def test_what_fits_is_not_cut(length: int) -> None:
    assert cut("x" * length, chars=6) == "x" * length


def test_what_is_cut_says_so() -> None:
    assert cut("abcdefgh", chars=6) == "abc..."


def test_names_keep_only_what_mlflow_takes() -> None:
    assert clean_name("loss(dit)@8%/a.b-c:d e") == "loss_dit__8_/a.b-c:d e"
    assert len(clean_name("x" * 300)) == 250
