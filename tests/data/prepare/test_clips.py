"""Scenes, clips of the wanted lengths, and what is said of them."""

from pathlib import Path

import numpy as np
import pytest

from orchestrator.data.prepare.clips import clips_of
from orchestrator.data.prepare.listing import list_source
from orchestrator.data.prepare.media import BrokenError
from orchestrator.data.prepare.plugins import see_raw
from orchestrator.data.prepare.probe import probe
from orchestrator.data.prepare.records import Clip, Cut, Listed, Probed, Scored
from orchestrator.data.prepare.scenes import cut
from orchestrator.data.prepare.score import score
from orchestrator.recipe.prepare import Model, Scenes
from tests.data.prepare.films import BLUE, GREEN, RED, film, one_scene, photo, scene


def film_row(path: Path) -> tuple[Listed, Probed]:
    (row,) = (
        one
        for one in list_source(str(path.parent), target="/nowhere").rows
        if one.name == path.name
    )
    return row, probe(row)


def scores_of(path: Path) -> list[Scored]:
    row, probed = film_row(path)
    clip = Clip("a-00000", video=row.key, scene=0, start_s=0.0, end_s=probed.duration_s)
    return score(row, probed, [clip])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_cuts_are_found_where_they_are(tmp_path: Path, name: str) -> None:
    scenes = [
        scene(1, frames=30, colour=RED),
        scene(2, frames=42, colour=BLUE),
        scene(3, frames=24, colour=GREEN),
    ]
    row, probed = film_row(film(tmp_path / name, scenes))
    found = cut(row, probed, scenes=Scenes())
    assert found.starts_s == pytest.approx((0.0, 30 / 24, 72 / 24), abs=2e-3)
    assert cut(row, probed, scenes=None).starts_s == (0.0,)


def test_a_film_without_a_cut_is_one_scene(tmp_path: Path) -> None:
    row, probed = film_row(one_scene(tmp_path / "a.mp4", 1))
    assert cut(row, probed, scenes=Scenes()).starts_s == (0.0,)


def clips(starts_s: tuple[float, ...], *, duration_s: float) -> list[Clip]:
    row = Listed("v", root="r", name="v.mp4", kind="video", size=1, tag="")
    probed = Probed("v", frames=9, fps=24.0, duration_s=duration_s)
    return clips_of(row, probed, Cut("v", starts_s=starts_s), min_s=1.0, max_s=2.0)


def test_scenes_become_clips_of_the_wanted_lengths() -> None:
    made = clips((0.0, 5.0, 5.5), duration_s=7.499)
    assert [(one.key, one.scene, one.start_s, one.end_s, one.reason) for one in made] == [
        ("v-00000", 0, 0.0, 2.0, None),
        ("v-00001", 0, 2.0, 4.0, None),
        ("v-00002", 0, 4.0, 5.0, None),
        ("v-00003", 1, 5.0, 5.5, "short"),
        ("v-00004", 2, 5.5, 7.499, None),  # a container that counts in milliseconds
    ]
    assert made[3].detail == "0.500 s, wanted 1.000"


def test_nothing_of_a_scene_is_left_without_a_row() -> None:
    made = clips((0.0, 3.3), duration_s=9.1)
    assert [one.end_s for one in made[:-1]] == [one.start_s for one in made[1:]]
    assert (made[0].start_s, made[-1].end_s) == (0.0, 9.1)


def test_an_image_is_one_clip() -> None:
    row = Listed("i", root="r", name="i.png", kind="image", size=1, tag="")
    (clip,) = clips_of(row, Probed("i", frames=1), Cut("i"), min_s=1.0, max_s=2.0)
    assert (clip.key, clip.start_s, clip.end_s, clip.reason) == ("i-00000", 0.0, 0.0, None)


def still(level: int, frames: int = 24) -> list[np.ndarray]:
    return [np.full((64, 64, 3), level, dtype=np.uint8)] * frames


def test_scores_tell_motion_stillness_and_black_apart(tmp_path: Path) -> None:
    (moving,) = scores_of(one_scene(tmp_path / "moving.mp4", 1, seconds=1.0))
    (frozen,) = scores_of(film(tmp_path / "frozen.mp4", [iter([next(scene(1, frames=1))] * 24)]))
    (black,) = scores_of(film(tmp_path / "black.mp4", [iter(still(0))]))
    (half,) = scores_of(film(tmp_path / "half.mp4", [iter(still(0, 12) + still(200, 12))]))
    assert moving.scores["motion"] > 0.02
    assert (moving.scores["static"], moving.scores["black"]) == (0.0, 0.0)
    assert (frozen.scores["static"], frozen.scores["black"]) == (1.0, 0.0)
    assert frozen.scores["motion"] < 0.002
    assert (black.scores["static"], black.scores["black"]) == (1.0, 1.0)
    assert half.scores["black"] == 0.5
    assert black.scores["brightness"] < 0.01 < moving.scores["brightness"] < 1
    assert (moving.scores["duration_s"], moving.scores["height"], moving.scores["fps"]) == (
        1,
        96,
        24,
    )


def test_a_moon_at_night_is_not_black(tmp_path: Path) -> None:
    night = np.zeros((64, 64, 3), dtype=np.uint8)
    night[20:32, 20:32] = 200  # less bright in the mean than the limit for a dark pixel
    assert night.mean() < 25
    (one,) = scores_of(film(tmp_path / "a.mp4", [iter([night] * 24)]))
    assert one.scores["black"] == 0.0


def test_blur_lowers_sharpness(tmp_path: Path) -> None:
    sharp = next(scene(1, frames=1))
    blurred = sharp.copy()
    for _ in range(3):
        blurred = np.mean(
            [np.roll(blurred, (y, x), (0, 1)) for y in (-2, 0, 2) for x in (-2, 0, 2)], axis=0
        ).astype(np.uint8)
    (one,) = scores_of(film(tmp_path / "sharp.mp4", [iter([sharp] * 8)]))
    (other,) = scores_of(film(tmp_path / "blurred.mp4", [iter([blurred] * 8)]))
    assert other.scores["sharpness"] < one.scores["sharpness"] / 4


def test_every_clip_of_a_film_has_its_own_scores(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [iter(still(0, 24)), scene(1, frames=48)])
    row, probed = film_row(path)
    parts = [
        Clip(f"a-{number:05d}", video="a", scene=number, start_s=start_s, end_s=end_s)
        for number, (start_s, end_s) in enumerate([(0.0, 1.0), (1.0, 3.0)])
    ]
    black, moving = score(row, probed, parts)
    assert (black.key, black.scores["black"]) == ("a-00000", 1.0)
    assert (moving.key, moving.scores["black"]) == ("a-00001", 0.0)
    assert len(black.hashes) == len(moving.hashes) == 3


def test_an_image_has_no_motion(tmp_path: Path) -> None:
    (one,) = scores_of(photo(tmp_path / "a.jpg", 1))
    assert not {"motion", "static"} & one.scores.keys()
    assert one.scores["sharpness"] > 0
    assert len(one.hashes) == 1


def test_a_film_that_ends_before_its_clip_is_broken(tmp_path: Path) -> None:
    row, probed = film_row(one_scene(tmp_path / "a.mp4", 1, seconds=1.0))
    clip = Clip("a-00000", video="a", scene=0, start_s=0.5, end_s=2.0)
    with pytest.raises(BrokenError, match="ends before"):
        score(row, probed, [clip])


def test_what_a_plug_in_raises_costs_only_the_clips_that_it_was_shown(tmp_path: Path) -> None:
    row, probed = film_row(one_scene(tmp_path / "a.mp4", 1, seconds=4.5))
    pieces = [
        Clip(f"a-{number:05d}", video="a", scene=0, start_s=number / 4, end_s=(number + 1) / 4)
        for number in range(18)
    ]
    model = Model(id="calm", use="tests.data.prepare.models:Tired", frames=1, scores=("calm",))
    seen = see_raw(row, probed, pieces, model=model)
    assert [one.key for one in seen] == [one.key for one in pieces]
    assert [one.scores for one in seen[:16]] == [{"calm": 1.0}] * 16
    assert {(one.reason, one.detail) for one in seen[16:]} == {
        ("failed", "calm: RuntimeError: too much")
    }
