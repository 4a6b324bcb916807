"""The configuration of `rushes prepare`: defaults, overrides, and what is refused."""

from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.recipe.prepare import Bucket, Prepare, Range, load_prepare


def test_defaults_alone_are_a_configuration() -> None:
    config = load_prepare(None)
    assert config == Prepare()
    assert config.min_s == config.max_s == 17 / 8
    assert {bucket.is_image for bucket in config.buckets} == {True, False}


def test_a_file_and_overrides_change_it(tmp_path: Path) -> None:
    path = tmp_path / "prepare.yaml"
    path.write_text("buckets: [{frames: 16, size: [64, 96], fps: 12}]\nclips: {max_s: 6}\n")
    config = load_prepare(path, overrides=["keep.motion.min=0.02", "keep.static=null"])
    assert config.buckets == (Bucket(frames=16, size=(64, 96), fps=12.0),)
    assert (config.min_s, config.max_s) == (16 / 12, 6.0)
    assert config.keep == {"black": Range(max=0.5), "static": None, "motion": Range(min=0.02)}


def test_images_alone_need_no_lengths() -> None:
    config = load_prepare(None, overrides=["buckets=[{frames: 1, size: [33, 33]}]"])
    assert config.min_s < config.max_s


def test_frames_do_not_hang_on_milliseconds() -> None:
    bucket = Bucket(frames=16, size=(64, 64), fps=8.0)
    assert bucket.frames_in(2.0) == bucket.frames_in(1.999) == 16
    assert bucket.frames_in(1.98) == 15


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("bucket=1", "bucket: unknown key"),
        ("buckets=[]", "buckets"),
        ("buckets=[{frames: 8, size: [63, 64]}]", "wanted even sides"),
        ("keep.beauty.min=1", "keep.beauty: no such score, wanted one of duration_s"),
        ("scorers=[{id: a, use: nowhere}]", "scorers.a.use"),
        ("scorers=[{id: a, use: 'm:A'}, {id: a, use: 'm:B'}]", "a is the name of a model twice"),
        ("scorers=[{id: a, use: 'm:A', scores: [motion]}]", "motion is the name of a score twice"),
        ("clips={min_s: 3, max_s: 2}", "min_s=3.0, wanted at most max_s=2.0"),
        ("encoding.crf=52", "encoding.crf=52"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(override: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        load_prepare(None, overrides=[override])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_no_number_is_never_in_a_range() -> None:
    assert Range(min=0.0).misses(float("nan")) is not None
    assert Range(max=1.0).misses(float("nan")) is not None
    assert Range(min=0.5, max=0.5).misses(0.5) is None


def test_the_documented_configuration_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    path = tmp_path / "prepare.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0])
    config = load_prepare(path)
    assert (config.min_s, config.max_s, config.keep["motion"]) == (2.0, 10.0, Range(min=0.01))
    assert [one.scores for one in config.scorers] == [("aesthetic",)]
    changed = Prepare.model_fields.keys() - config.model_fields_set
    assert not changed
