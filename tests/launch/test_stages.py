"""`rushes check --stages`: nothing of it is cut off."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.launch.stages import print_stages, short
from orchestrator.recipe.load import load_recipe
from orchestrator.train.describe import describe

JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))


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
    trained = [stage.id for stage in recipe.stages if stage.train or stage.distill]
    assert [row.stage for row in rows] == trained
    for row in rows:
        (line,) = [line for line in lines if line.startswith(f"│ {row.stage} ")]
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        numbers = [short(value) for value in (row.units, row.parameters, row.flops)]
        assert cells == [row.stage, row.network, row.takes, row.makes, *numbers]


def test_a_narrow_terminal_folds_words_and_keeps_numbers() -> None:
    path = next(path for path in JOBS if path.stem == "imagen_video")
    text = printed(path, width=60, is_terminal=True)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines() if "│" in line) <= 60
    for row in describe(load_recipe(path)):
        for value in (row.units, row.parameters, row.flops):
            assert f" {short(value)} " in text
