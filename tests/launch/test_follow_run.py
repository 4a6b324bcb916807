"""`rushes status --watch`: from a run's folder alone, to the run's end."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.__main__ import main
from orchestrator.cascade.attempt import begin
from orchestrator.cascade.done import write_done
from orchestrator.cascade.ends import noting_end
from orchestrator.cascade.goodput_file import write_rows
from orchestrator.cascade.versions import claim
from orchestrator.errors import (
    FencedError,
    RushesError,
    StoppedError,
    UnavailableError,
    UserError,
)
from orchestrator.launch import follow_run as module
from orchestrator.launch.follow_run import LOOK_S, TableScreen, follow_run, open_screen
from orchestrator.launch.look import Look
from orchestrator.storage.store import Store, open_store
from tests.beats import FakeRank, gang, ledger_of, stage_end, stage_start
from tests.tiny import STEPS, tiny_recipe

DATA = {"train": "a" * 64, "eval": "b" * 64}
STAGES = ("autoencoder", "encode", "dit", "evaluate")
Act = Callable[[], None]


class Run:
    """A run's folder, and what its driver and its ranks write there."""

    def __init__(self, folder: Path) -> None:
        self.recipe = tiny_recipe(folder, workers=2)
        self.store: Store = open_store(str(folder / "run"))
        self.attempt = 0
        self.again()

    def again(self) -> None:
        self.attempt = begin(self.store, self.recipe, data=DATA)

    def ends(self, error: RushesError | None = None) -> None:
        with noting_end(self.store, attempt=self.attempt) as end:
            end.error = error

    def starts(self, stage: str) -> None:
        claim(self.store, stage=stage, inputs="c" * 64)

    def logs(self, stage: str, *, step: int) -> None:
        row = {"step": step, "loss": 1 / step}
        folder = f"stages/{stage}"
        self.store.put(f"{folder}/metrics.jsonl", f"{json.dumps(row)}\n".encode())
        self.store.put(f"{folder}/checkpoints/step-{step:08d}/COMMIT", b"{}")

    def trains(self, stage: str, *, seconds: int, ended: bool = False) -> None:
        """The ledger once two ranks have trained for so long: rank 1 is the slow one."""
        events = [stage_start(0.0, stage=stage), gang(0.0, stage=stage)]
        for number, own in ((0, 0.25), (1, 0.75)):
            rank = FakeRank(0.0, "g", rank=number, stage=stage)
            events.append(rank.spends({"start_up": 5.0}, step=0))
            for step in range(1, seconds + 1):
                spans = {"communication": 1.0 - own, "compute": own}
                events.append(rank.spends(spans, step=step))
        events.sort(key=lambda one: one["time"])
        if ended:
            events.append(stage_end(5.0 + seconds, stage=stage))
        write_rows(self.store, ledger_of(*events, attempt=self.attempt), attempt=self.attempt)

    def is_done(self, *stages: str) -> None:
        for stage in stages:
            write_done(self.store, stage=stage, inputs="c" * 64, output="d" * 64, step=STEPS)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


class Watched:
    """A command that watches, with a terminal or without one; between looks the test acts."""

    def __init__(self, uri: str, *, terminal: bool = False, as_json: bool = False) -> None:
        self.uri = uri
        self.console = Console(
            file=io.StringIO(), force_terminal=terminal, width=120, height=60, _environ={}
        )
        self.screen = open_screen(self.console, as_json=as_json)
        self.now_s = 0.0
        self.pauses: list[float] = []

    def follow(self, *acts: Act) -> None:
        script: Iterator[Act] = iter(acts)

        def pause(seconds: float) -> None:
            self.pauses.append(seconds)
            self.now_s += seconds
            next(script)()

        follow_run(self.uri, screen=self.screen, pause=pause, clock=lambda: self.now_s)

    @property
    def out(self) -> str:
        file = self.console.file
        assert isinstance(file, io.StringIO)
        return file.getvalue()


def nothing() -> None:
    """Happens."""


def test_lines_are_added_as_a_run_goes_on_to_its_end(run: Run) -> None:
    watched = Watched(run.store.uri)
    watched.follow(
        lambda: run.starts("autoencoder"),
        nothing,
        lambda: run.logs("autoencoder", step=3),
        lambda: run.is_done("autoencoder"),
        lambda: run.is_done("encode", "dit", "evaluate"),
    )
    assert watched.out.splitlines() == [
        *(f"{stage}  waiting" for stage in STAGES),
        f"autoencoder  started  0/{STEPS}",
        f"autoencoder  started  3/{STEPS}  loss 0.3333",
        "autoencoder  done  loss 0.3333",
        *(f"{stage}  done" for stage in STAGES[1:]),
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("data.train.uri=nowhere: no index there"), 2),
        (UnavailableError("put s3://bucket/x: gave up"), 75),
        (StoppedError("stopped and saved"), 143),
        (RushesError("stage dit: a defect"), 1),
    ],
)
def test_it_ends_as_the_run_does(run: Run, error: RushesError, code: int) -> None:
    with pytest.raises(RushesError) as seen:
        Watched(run.store.uri).follow(nothing, lambda: run.ends(error))
    assert seen.value.exit_code == code
    assert str(seen.value) == f"start 1 ended: {error}"


def test_a_run_that_goes_on_is_watched_on(run: Run) -> None:
    run.ends(StoppedError("stopped and saved"))
    run.again()
    watched = Watched(run.store.uri)
    watched.follow(lambda: run.is_done(*STAGES), run.ends)
    assert watched.out.splitlines()[-4:] == [f"{stage}  done" for stage in STAGES]


def test_a_start_that_was_replaced_leaves_no_end(run: Run) -> None:
    with suppress(FencedError), noting_end(run.store, attempt=1):
        run.again()
        raise FencedError("start 2 of the run goes on with it")
    assert run.store.list("ends/") == []


def test_a_defect_is_an_end_as_well(run: Run) -> None:
    def breaks() -> None:
        with pytest.raises(ZeroDivisionError), noting_end(run.store, attempt=1):
            raise ZeroDivisionError("oh")

    with pytest.raises(RushesError, match="start 1 ended: defect: ZeroDivisionError: oh"):
        Watched(run.store.uri).follow(breaks)


def test_a_terminal_shows_one_table_that_is_drawn_anew(run: Run) -> None:
    run.starts("autoencoder")
    watched = Watched(run.store.uri, terminal=True)
    assert isinstance(watched.screen, TableScreen)
    watched.follow(
        lambda: run.logs("autoencoder", step=2),
        lambda: run.is_done(*STAGES),
    )
    first, *_, last = watched.out.split("\x1b[2K")  # a line is erased before it is drawn again
    assert "waiting" in first
    assert "2/6" in watched.out
    assert last.count("done") + watched.out.count("\x1b[1A") > len(STAGES)
    assert "waiting" not in last


def test_json_is_a_line_for_each_change(run: Run) -> None:
    watched = Watched(run.store.uri, as_json=True)
    watched.follow(nothing, nothing, lambda: run.starts("dit"), lambda: run.is_done(*STAGES))
    states = [
        [stage["state"] for stage in json.loads(line)["stages"]]
        for line in watched.out.splitlines()
    ]
    assert states == [["waiting"] * 4, ["waiting"] * 2 + ["started", "waiting"], ["done"] * 4]


def test_a_run_that_says_nothing_is_said_to(run: Run) -> None:
    watched = Watched(run.store.uri)
    looks = int(module._QUIET_S / LOOK_S)
    watched.follow(*[nothing] * (2 * looks), lambda: run.is_done(*STAGES))
    (line,) = [one for one in watched.out.splitlines() if one.startswith("nothing new")]
    assert line.startswith("nothing new for 1 min 00 s")


def test_a_store_that_is_away_is_asked_again_and_then_given_up(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, away = Look.read, [True]

    def read_or_fail(look: Look) -> dict[str, Any]:
        if away[0]:
            raise UnavailableError("list s3://bucket: 503")
        return read(look)

    monkeypatch.setattr(Look, "read", read_or_fail)
    watched = Watched(run.store.uri)

    def is_back() -> None:
        away[0] = False

    watched.follow(nothing, nothing, is_back, lambda: run.is_done(*STAGES))
    (line,) = [one for one in watched.out.splitlines() if "no answer" in one]
    assert line == "no answer, still asking: list s3://bucket: 503"
    away[0] = True
    with pytest.raises(UnavailableError, match="503"):
        Watched(run.store.uri).follow(*[nothing] * 1000)


def test_looks_take_a_small_part_of_the_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(run.store.uri)
    read = Look.read

    def slowly(look: Look) -> dict[str, Any]:
        watched.now_s += 3.0
        return read(look)

    monkeypatch.setattr(Look, "read", slowly)
    watched.follow(nothing, lambda: run.is_done(*STAGES))
    assert watched.pauses == [60.0, 60.0]


class CountingStore:
    """Counts what is read of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.read: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, key: str) -> bytes:
        self.read.append(key)
        return self._store.get(key)

    def get_range(self, key: str, *, start: int, length: int) -> bytes:
        self.read.append(key)
        return self._store.get_range(key, start=start, length=length)


def test_what_has_not_changed_is_not_read_again(run: Run) -> None:
    run.starts("dit")
    run.logs("dit", step=2)
    run.trains("dit", seconds=4)
    look = Look(run.store.uri)
    look._store = store = CountingStore(run.store)  # pyright: ignore[reportAttributeAccessIssue]
    first = look.read()
    assert "goodput.jsonl" in store.read
    store.read.clear()
    assert look.read() == first
    assert store.read == []
    run.logs("dit", step=4)
    assert look.read()["stages"][2]["step"] == 4
    assert store.read == ["stages/dit/metrics.jsonl"]


def test_the_last_line_of_long_metrics_is_found(run: Run) -> None:
    rows = [{"step": step, "loss": 1.0, "more": "x" * 500} for step in range(1, 1001)]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    run.store.put("stages/dit/metrics.jsonl", lines.encode())
    assert Look(run.store.uri).read()["stages"][2]["step"] == 1000


def test_each_rank_shows_what_its_steps_take(run: Run) -> None:
    run.starts("dit")
    run.trains("dit", seconds=10)
    look = Look(run.store.uri)
    stage = look.read()["stages"][2]
    own = {one["rank"]: (one["step"], one["own_step_s"]) for one in stage["ranks"]}
    # Steps begin with the first beat after the start, which has one behind it.
    assert own == {0: (10, pytest.approx(0.25, rel=0.2)), 1: (10, pytest.approx(0.75, rel=0.2))}
    run.trains("dit", seconds=30)
    ranks = look.read()["stages"][2]["ranks"]
    assert [one["own_step_s"] for one in ranks] == pytest.approx([0.25, 0.75])
    assert [one["communication_s"] for one in ranks] == pytest.approx([0.75, 0.25])
    run.is_done("dit")
    assert look.read()["stages"][2]["ranks"] == []


def rushes(*args: str) -> int:
    before = sys.argv
    sys.argv = ["rushes", *args]
    try:
        return main()
    finally:
        sys.argv = before


def test_ctrl_c_ends_the_command_quietly(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(look: Look) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Look, "read", interrupted)
    assert rushes("status", run.store.uri, "--watch") == 130
    assert capsys.readouterr().err == ""


def test_the_command_ends_with_the_exit_code_of_a_run_that_has_ended(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run.ends(StoppedError("stopped and saved"))
    assert rushes("status", run.store.uri, "--watch") == 143
    assert capsys.readouterr().err == "rushes: start 1 ended: stopped and saved\n"
    run.again()
    run.is_done(*STAGES)
    assert rushes("status", run.store.uri, "--watch") == 0


def test_where_there_is_no_run_there_is_nothing_to_watch(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="wanted the folder of a run"):
        Watched(str(tmp_path)).follow()
