"""`rushes check --stages`: nothing of it is cut off."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from models.text.config import Byt5Config
from models.text.pair_config import SmallPairConfig
from models.text.small_pair import SmallPair
from orchestrator.launch.stages import print_stages, short
from orchestrator.recipe.load import load_recipe
from orchestrator.train.describe import StageFacts, describe
from orchestrator.train.flops import forward_flops, on_meta

JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))


def numbers(row: StageFacts) -> list[str]:
    return [short(value) for value in (row.units, row.parameters, row.training, row.once)]


def printed(path: Path, *, width: int, is_terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=is_terminal, color_system=None)
    print_stages(load_recipe(path), console=console)
    return out.getvalue()


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_pipe_gets_every_cell_whole(path: Path) -> None:
    text = printed(path, width=80, is_terminal=False)
    lines = text.splitlines()
    recipe = load_recipe(path)
    rows = describe(recipe)
    assert [row.stage for row in rows] == [stage.id for stage in recipe.stages]
    for row in rows:
        (line,) = [line for line in lines if line.startswith(f"│ {row.stage} ")]
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        words = [row.stage, row.network, row.takes, row.makes, row.trains_on or "-"]
        assert cells == [*words, *numbers(row)]


def test_a_narrow_terminal_folds_words_and_keeps_numbers() -> None:
    path = next(path for path in JOBS if path.stem == "imagen_video")
    text = printed(path, width=60, is_terminal=True)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines() if "│" in line) <= 60
    for row in describe(load_recipe(path)):
        for number in numbers(row):
            assert f" {number} " in text


@pytest.fixture(scope="module")
def rows() -> dict[str, StageFacts]:
    paths = [path for path in JOBS if path.stem in ("make_a_video_digits", "sora_debug")]
    return {row.stage: row for path in paths for row in describe(load_recipe(path))}


def test_students_are_charged_for_their_teachers_answers() -> None:
    recipe = load_recipe(next(path for path in JOBS if path.stem == "imagen_video_digits"))
    found = {row.stage: row for row in describe(recipe)}
    teacher = found["base"]
    assert teacher.once is not None
    assert teacher.training == 3 * teacher.once
    for name in ("base-guided", "base-16", "base-8"):
        student = found[name]
        assert student.training == 5 * teacher.once  # three of its own, two of its teacher
        assert (student.once, student.parameters) == (teacher.once, teacher.parameters)


def test_work_is_that_of_the_crop_in_training_and_of_the_whole_clip_in_sampling(
    rows: dict[str, StageFacts],
) -> None:
    image, video = rows["sr_l"], rows["sr_h"]  # one network, trained alike
    assert video.trains_on == "1x32x32"
    assert video.makes == "10x64x64 @ 12"
    assert video.training == image.training
    assert image.once is not None
    # Fully convolutional, frame by frame; only what is per clip does not grow with its area.
    assert video.once == pytest.approx(10 * 4 * image.once, rel=0.01)


def test_stages_that_train_nothing_have_rows_too(rows: dict[str, StageFacts]) -> None:
    encode, evaluate = rows["encode"], rows["evaluate-prior"]
    assert (encode.takes, encode.makes) == ("9x32x32", "latents 3x4x4")
    assert encode.training is None
    assert encode.once is not None
    assert (evaluate.takes, evaluate.makes) == ("128 held-out clips", "scores")
    assert evaluate.parameters == rows["prior"].parameters
    assert (evaluate.units, evaluate.training, evaluate.once) == (None, None, None)


def test_both_encoders_of_a_pair_are_counted(rows: dict[str, StageFacts]) -> None:
    config = SmallPairConfig(
        text=Byt5Config(width=64, depth=1, kernel=9, stride=4),
        embedding_width=64,
        width=32,
        stages=3,
    )
    encoder = on_meta(lambda: SmallPair(config).image_encoder)
    image = forward_flops(encoder, torch.empty(1, 3, 32, 32, device="meta"))
    found = rows["pair"].once
    assert found is not None
    text = found - image
    # 16 tokens through a convolution over 9 bytes and a block of 12 width^2 weights, twice.
    assert text == pytest.approx(2 * 16 * (9 + 12) * 64**2, rel=0.1)
