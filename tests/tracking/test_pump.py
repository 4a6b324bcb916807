"""From the spool to a tracking server, whatever the server does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.tracking import pump as pump_room
from orchestrator.tracking.pump import Pump
from orchestrator.tracking.sink import NotNowError, Point, RejectedError
from orchestrator.tracking.spool import REJECTED, SpoolWriter, StateFile


class FakeSink:
    """A server in memory that keeps what it is given, as MLflow does: equal points once."""

    def __init__(self) -> None:
        self.run: str | None = "parent-1"
        self.points: dict[str, set[Point]] = {}
        self.applied: list[dict[str, Any]] = []
        self.requests: list[int] = []
        self.fail: Callable[[], None] = lambda: None  # called before anything is stored
        self.fail_after: Callable[[], None] = lambda: None  # the answer is lost
        self.alive = True

    def find_run(self) -> str | None:
        return self.run

    def stored_marks(self, stage: str) -> dict[str, int]:
        points = self.points.get(stage, set())
        return {
            name: max(point.step for point in points if point.name == name)
            for name in {point.name for point in points}
        }

    def log_points(self, stage: str, points: list[Point]) -> None:
        self.fail()
        if any(point.name == "refused" for point in points):
            raise RejectedError("refused")
        self.requests.append(len(points))
        self.points.setdefault(stage, set()).update(points)
        self.fail_after()

    def apply(self, event: dict[str, Any]) -> None:
        self.fail()
        if event["kind"] == "bad":
            raise RejectedError("unknown kind 'bad'")
        self.applied.append(event)

    def abandon(self) -> None:
        raise AssertionError("only a feeder without a driver calls this")

    def answers(self) -> bool:
        return self.alive


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink()


@pytest.fixture
def spool(tmp_path: Path) -> SpoolWriter:
    return SpoolWriter(tmp_path)


def pump_of(
    folder: Path,
    sink: FakeSink,
    *,
    attempt: int = 1,
    newest_attempt: Callable[[], int] = lambda: 1,
    command: str = "a",
    start: int = 0,
) -> Pump:
    state = StateFile(folder, target="one")
    return Pump(
        folder,
        sink=sink,
        state=state,
        attempt=attempt,
        newest_attempt=newest_attempt,
        command=command,
        start=start,
    )


def drain(pump: Pump) -> None:
    while pump.advance():
        pass


def metrics(step: int, *, time_ms: int = 0, stage: str = "dit", **values: object) -> dict[str, Any]:
    return {
        "kind": "metrics",
        "stage": stage,
        "step": step,
        "time_ms": time_ms,
        "values": values or {"loss": step / 2},
    }


def stored(sink: FakeSink, name: str = "loss") -> list[tuple[int, float]]:
    points = sink.points.get("dit", set())
    return sorted((one.step, one.value) for one in points if one.name == name)


def down() -> None:
    raise NotNowError("connection refused")


def test_metrics_travel_in_full_requests(
    tmp_path: Path, spool: SpoolWriter, sink: FakeSink
) -> None:
    for step in range(2500):
        spool.append(metrics(step))
    drain(pump_of(tmp_path, sink))
    assert stored(sink) == [(step, step / 2) for step in range(2500)]
    assert len(sink.requests) <= 6
    assert max(sink.requests) <= 1000


def test_order_is_kept_around_other_events(
    tmp_path: Path, spool: SpoolWriter, sink: FakeSink
) -> None:
    spool.append({"kind": "stage", "stage": "dit"})
    spool.append(metrics(1))
    spool.append({"kind": "end", "stage": "dit"})
    seen: list[int] = []
    sink.fail = lambda: seen.append(len(sink.applied) + len(sink.requests))
    drain(pump_of(tmp_path, sink))
    assert seen == [0, 1, 2]
    assert [event["kind"] for event in sink.applied] == ["stage", "end"]


def test_an_outage_loses_nothing(tmp_path: Path, spool: SpoolWriter, sink: FakeSink) -> None:
    spool.append(metrics(1))
    pump = pump_of(tmp_path, sink)
    drain(pump)
    sink.fail, sink.alive = down, False
    spool.append(metrics(2))
    for _ in range(30):
        with pytest.raises(NotNowError):
            pump.advance()
    spool.append(metrics(3))
    sink.fail, sink.alive = (lambda: None), True
    drain(pump)
    assert stored(sink) == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert not (tmp_path / REJECTED).exists()


def test_a_lost_answer_doubles_nothing(tmp_path: Path, spool: SpoolWriter, sink: FakeSink) -> None:
    spool.append(metrics(1))
    sink.fail_after = down
    with pytest.raises(NotNowError):
        pump_of(tmp_path, sink).advance()
    sink.fail_after = lambda: None
    drain(pump_of(tmp_path, sink))  # a new process, after a crash before the state was saved
    assert stored(sink) == [(1, 0.5)]
    assert len(sink.points["dit"]) == 1


def test_a_resumed_stage_repeats_no_step(
    tmp_path: Path, spool: SpoolWriter, sink: FakeSink
) -> None:
    for step in (1, 2, 3):
        spool.append(metrics(step, time_ms=step))
    spool.append(metrics(1, fvd=9.0))
    drain(pump_of(tmp_path, sink))
    for step in (2, 3, 4):
        spool.append(metrics(step, time_ms=100 + step))
    drain(pump_of(tmp_path, sink))
    times = sorted((one.step, one.time_ms) for one in sink.points["dit"] if one.name == "loss")
    assert times == [(1, 1), (2, 2), (3, 3), (4, 104)]
    assert stored(sink, "fvd") == [(1, 9.0)]


def test_without_a_state_the_server_says_what_it_has(
    tmp_path: Path, spool: SpoolWriter, sink: FakeSink
) -> None:
    spool.append(metrics(1))
    spool.append(metrics(2))
    drain(pump_of(tmp_path, sink))
    next(tmp_path.glob("state-*.json")).unlink()
    spool.append(metrics(2, time_ms=5))
    spool.append(metrics(3))
    drain(pump_of(tmp_path, sink))
    assert stored(sink) == [(1, 0.5), (2, 1.0), (3, 1.5)]


def test_a_new_database_gets_everything_again(
    tmp_path: Path, spool: SpoolWriter, sink: FakeSink
) -> None:
    spool.append(metrics(1))
    drain(pump_of(tmp_path, sink))
    empty = FakeSink()
    empty.run = None
    spool.append(metrics(2))
    drain(pump_of(tmp_path, empty))
    assert stored(empty) == [(1, 0.5), (2, 1.0)]


def test_a_refused_event_is_kept_aside_and_holds_up_nothing(
    tmp_path: Path, spool: SpoolWriter, sink: FakeSink
) -> None:
    spool.append(metrics(1))
    spool.append(metrics(2, refused=1.0))
    spool.append({"kind": "metrics", "stage": "dit", "values": {"loss": 1.0}})
    spool.append(metrics(3, loss="high"))
    spool.append({"kind": "bad"})
    spool.append(metrics(4))
    drain(pump_of(tmp_path, sink))
    assert stored(sink) == [(1, 0.5), (4, 2.0)]
    lines = (tmp_path / REJECTED).read_text().splitlines()
    reasons = [json.loads(line)["reason"] for line in lines]
    assert len(reasons) == 4
    assert reasons[0] == "refused"
    assert "'step'" in reasons[1]
    assert "high" in reasons[2]
    assert reasons[3] == "unknown kind 'bad'"


def test_one_event_that_always_fails_is_given_up_while_the_server_answers(
    tmp_path: Path, spool: SpoolWriter, sink: FakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(pump_room.time, "monotonic", lambda: now_s)
    spool.append({"kind": "artifact", "uri": "cursed"})
    spool.append({"kind": "note", "text": "after"})
    apply = sink.apply

    def cursed(event: dict[str, Any]) -> None:
        if event.get("uri") == "cursed":
            raise NotNowError("internal error")
        apply(event)

    sink.apply = cursed  # type: ignore[method-assign]
    pump = pump_of(tmp_path, sink)
    for _ in range(50):
        with pytest.raises(NotNowError):
            pump.advance()
        now_s += pump_room._GIVE_UP_S / 51
    now_s += pump_room._GIVE_UP_S
    drain(pump)
    assert [event["kind"] for event in sink.applied] == ["note"]
    assert "internal error" in (tmp_path / REJECTED).read_text()


def test_what_a_server_says_is_kept_without_its_password(
    tmp_path: Path, spool: SpoolWriter, sink: FakeSink, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise RejectedError("API request to http://me:planted@host failed")  # secret-scan: ok

    sink.fail = refuse
    spool.append({"kind": "note", "text": "hello"})
    drain(pump_of(tmp_path, sink))
    kept = (tmp_path / REJECTED).read_text()
    assert "API request to http://***@host failed" in kept
    assert "planted" not in kept + caplog.text


def test_values_that_are_not_finite_are_counted(
    tmp_path: Path, spool: SpoolWriter, sink: FakeSink
) -> None:
    spool.append(metrics(1, loss=float("nan"), norm=float("-inf"), lr=1.0))
    drain(pump_of(tmp_path, sink))
    assert {(one.name, one.value) for one in sink.points["dit"]} == {
        ("nonfinite", 2.0),
        ("lr", 1.0),
    }


def test_a_later_commands_events_are_left_to_its_own_feeder(
    tmp_path: Path, spool: SpoolWriter, sink: FakeSink
) -> None:
    spool.append({"kind": "attempt", "attempt": "long ago"})
    spool.append(metrics(1))
    start = spool.size
    spool.append({"kind": "attempt", "attempt": "a"})
    spool.append(metrics(2))
    later = spool.size
    spool.append({"kind": "attempt", "attempt": "b"})
    spool.append(metrics(3))
    pump = pump_of(tmp_path, sink, command="a", start=start)
    drain(pump)
    assert pump.superseded
    assert stored(sink) == [(1, 0.5), (2, 1.0)]
    drain(pump_of(tmp_path, sink, command="b", start=later))
    assert stored(sink) == [(1, 0.5), (2, 1.0), (3, 1.5)]


def test_nothing_more_is_sent_once_the_run_was_started_elsewhere(
    tmp_path: Path, spool: SpoolWriter, sink: FakeSink
) -> None:
    newest = 1
    pump = pump_of(tmp_path, sink, newest_attempt=lambda: newest)
    spool.append(metrics(1))
    drain(pump)
    newest = 2
    spool.append(metrics(2))
    spool.append({"kind": "end", "stage": None, "status": "KILLED"})
    drain(pump)
    assert pump.superseded
    assert stored(sink) == [(1, 0.5)]
    assert not sink.applied


def test_who_comes_back_sends_nothing_that_another_machine_has_sent(
    tmp_path: Path, spool: SpoolWriter, sink: FakeSink
) -> None:
    spool.append(metrics(1))
    drain(pump_of(tmp_path, sink))
    spool.append(metrics(2))  # not sent: start 2, elsewhere, trains it again
    sink.log_points("dit", [Point("loss", step / 2, 77, step) for step in (2, 3)])
    pump = pump_of(tmp_path, sink, attempt=3, newest_attempt=lambda: 3)
    spool.append(metrics(3))
    spool.append(metrics(4))
    drain(pump)
    assert stored(sink) == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]


def test_steps_that_another_machine_told_nobody_of_come_from_the_runs_log(
    tmp_path: Path, spool: SpoolWriter, sink: FakeSink
) -> None:
    rows = [{"step": step, "time_ms": step, "loss": step / 2, "lr": 1.0} for step in range(1, 1500)]
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sink.log_points("dit", [Point("loss", 0.5, 77, 1)])
    spool.append({"kind": "history", "stage": "dit", "uri": str(log)})
    spool.append(metrics(1500))
    drain(pump_of(tmp_path, sink, attempt=2, newest_attempt=lambda: 2))
    assert stored(sink) == [(step, step / 2) for step in range(1, 1501)]
    assert stored(sink, "lr") == [(step, 1.0) for step in range(1, 1500)]
    assert max(sink.requests) <= 1000


@pytest.mark.parametrize("text", [None, "no JSON", "[1]", '{"step": 1}'])
def test_a_log_that_cannot_be_read_holds_up_nothing(
    tmp_path: Path, spool: SpoolWriter, sink: FakeSink, text: str | None
) -> None:
    log = tmp_path / "metrics.jsonl"
    if text is not None:
        log.write_text(text)
    spool.append({"kind": "history", "stage": "dit", "uri": str(log)})
    spool.append(metrics(1))
    drain(pump_of(tmp_path, sink))
    assert stored(sink) == [(1, 0.5)]
    assert "metrics.jsonl" in (tmp_path / REJECTED).read_text()
