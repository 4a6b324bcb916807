"""What `rushes status` says of a run, from its storage alone."""

import io
from pathlib import Path

from rich.console import Console

from orchestrator.cascade.attempt import begin
from orchestrator.cascade.done import write_done
from orchestrator.cascade.goodput_file import KEY
from orchestrator.cascade.goodput_rows import CATEGORIES, Row, to_lines
from orchestrator.cascade.versions import claim
from orchestrator.launch.status import print_status, read_status
from orchestrator.recipe.load import parse_recipe
from orchestrator.storage.store import Store, open_store
from tests.tiny import tiny_recipe, tiny_tree


def test_a_stage_that_has_saved_nothing_yet_is_started(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    begin(store, tiny_recipe(tmp_path), data={"train": "a" * 64, "eval": "b" * 64})
    claim(store, stage="autoencoder", inputs="c" * 64)
    write_done(store, stage="autoencoder", inputs="c" * 64, output="d" * 64, step=6)
    claim(store, stage="encode", inputs="e" * 64)
    states = {stage["id"]: stage["state"] for stage in read_status(store.uri)["stages"]}
    wanted = {"autoencoder": "done", "encode": "started", "dit": "waiting", "evaluate": "waiting"}
    assert states == wanted


def row(stage: str, **seconds: float) -> Row:
    return Row(
        attempt=1,
        stage=stage,
        inputs="a",
        gang="g",
        rank=0,
        node="n",
        start=0.0,
        end=sum(seconds.values()),
        seconds=seconds,
    )


def run_with(tmp_path: Path, *rows: Row, damage: bytes = b"", **price: float) -> Store:
    store = open_store(str(tmp_path / "run"))
    tree = tiny_tree(tmp_path) | ({"price": price} if price else {})
    begin(store, parse_recipe(tree, origin="tiny"), data={"train": "a" * 64, "eval": "b" * 64})
    store.put(KEY, to_lines(rows) + damage)
    return store


def shown(store: Store) -> list[str]:
    """What is printed where a terminal has 100 columns."""
    console = Console(file=io.StringIO(), width=100)
    print_status(read_status(store.uri), console=console)
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue().splitlines()


def cells(lines: list[str], name: str) -> list[str]:
    """A stage's row of the last table that has it."""
    return [line.split() for line in lines if line.split()[:1] == [name]][-1][1:]


def test_a_run_says_what_its_time_was_spent_on_and_what_it_cost(tmp_path: Path) -> None:
    store = run_with(
        tmp_path,
        row("autoencoder", compute=1800.0, communication=900.0, start_up=700.0, idle=200.0),
        row("dit", compute=1800.0, start_up=1800.0),
        row("dit", compute=1800.0, start_up=1799.5, restart=0.5),
        cpu_hour=0.25,
    )
    lines = shown(store)
    assert cells(lines, "autoencoder") == ["1", "75.0", "50.0", "25.0", "19.4", "5.6", "0.25"]
    assert cells(lines, "dit") == ["2", "50.0", "50.0", "50.0", "0.50"]
    assert cells(lines, "total") == ["3", "58.3", "50.0", "8.3", "39.8", "1.9", "0.75"]
    assert not [line for line in lines if "restart" in line]  # 0.0 % everywhere
    goodput = read_status(store.uri)["goodput"]
    assert goodput["currency"] == "USD"
    assert goodput["total"]["rank_seconds"] == 10800.0
    assert goodput["total"]["cost"] == 0.75
    assert goodput["stages"]["dit"]["seconds"]["restart"] == 0.5


def test_every_category_has_a_place_in_a_hundred_columns(tmp_path: Path) -> None:
    seconds = {name: 10.0 + number for number, name in enumerate(CATEGORIES)}
    lines = shown(run_with(tmp_path, row("dit", **seconds), cpu_hour=1000.0))
    total = sum(seconds.values())
    percents = [f"{100 * one / total:.1f}" for one in seconds.values()]
    assert [one for one in cells(lines, "dit") if one in percents] == percents
    assert not any("\N{HORIZONTAL ELLIPSIS}" in line for line in lines)


def test_a_run_without_a_ledger_has_one_table(tmp_path: Path) -> None:
    store = run_with(tmp_path)
    assert read_status(store.uri)["goodput"] is None
    assert not [line for line in shown(store) if "time of all ranks" in line]


def test_a_stage_that_the_recipe_no_longer_has_is_still_shown(tmp_path: Path) -> None:
    lines = shown(run_with(tmp_path, row("old", compute=36.0), row("dit", compute=36.0)))
    assert cells(lines, "old") == ["0.01", "100.0", "100.0"]
    assert cells(lines, "total") == ["0.02", "100.0", "100.0"]


def test_damaged_lines_are_told(tmp_path: Path) -> None:
    lines = shown(run_with(tmp_path, row("dit", compute=36.0), damage=b"{\n"))
    assert "goodput.jsonl: 1 damaged line left out" in lines
