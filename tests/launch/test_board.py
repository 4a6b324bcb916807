"""What a gang is asked over the board and what it answers, without Ray around it."""

import asyncio
import json
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError

from orchestrator.cascade import board as board_room
from orchestrator.cascade.board import Board, BoardHooks, GangState
from orchestrator.train.hooks import Asked

LIMIT_S = 20.0


class HereBoard:
    """A board in this process; its methods are called as an actor's are."""

    def __init__(self) -> None:
        self._board = Board()
        self._lock = threading.Lock()

    def __getattr__(self, method: str) -> Any:
        def call(*args: Any) -> Any:
            with self._lock:
                return asyncio.run(getattr(self._board, method)(*args))

        return SimpleNamespace(remote=call)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> HereBoard:
    monkeypatch.setattr(board_room.ray, "get", lambda answer: answer)
    monkeypatch.setattr(board_room, "_EXCHANGE_S", 0.01)
    return HereBoard()


def look(board: HereBoard, stage: str) -> GangState:
    return GangState(**board.look.remote(stage))


def test_a_pause_is_asked_answered_and_taken_back(board: HereBoard) -> None:
    board.enter.remote("dit")
    hooks = BoardHooks(board, stage="dit")
    try:
        board.pause.remote("dit")
        waiting = threading.Thread(target=hooks.paused, args=(7,))
        while not hooks.should_pause():
            pass
        waiting.start()
        while look(board, "dit").saved is None:
            pass
        assert look(board, "dit").saved == 7
        assert waiting.is_alive()
        board.go_on.remote("dit")
        waiting.join(LIMIT_S)
        assert not waiting.is_alive()
        assert not hooks.should_pause()
    finally:
        hooks.close()
    assert look(board, "dit").saved is None


def test_a_stop_ends_a_pause(board: HereBoard) -> None:
    board.enter.remote("dit")
    hooks = BoardHooks(board, stage="dit")
    try:
        board.pause.remote("dit")
        while not hooks.should_pause():
            pass
        board.stop.remote("dit")
        hooks.paused(7)
        assert hooks.should_stop()
    finally:
        hooks.close()


class Away:
    """A board that does not answer for some calls."""

    def __init__(self, board: HereBoard, *, calls: int) -> None:
        self._board, self.calls = board, calls

    @property
    def exchange(self) -> Any:
        if self.calls:
            self.calls -= 1
            raise ActorUnavailableError("reset by peer", actor_id=None)
        return self._board.exchange


def test_events_wait_for_a_board_that_is_out_of_reach(board: HereBoard) -> None:
    away = Away(board, calls=3)
    hooks = BoardHooks(away, stage="dit")
    told = [{"kind": "note", "text": str(number)} for number in range(5)]
    for event in told:
        hooks.event(event)
    while away.calls:
        pass
    hooks.close()
    assert not hooks.should_stop()
    assert [json.loads(line) for line in board.take.remote("dit", LIMIT_S)] == told


def test_a_board_that_stays_out_of_reach_ends_the_gang(
    board: HereBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_room, "_GONE_S", 0.1)
    hooks = BoardHooks(Away(board, calls=10**9), stage="dit")
    while not hooks.should_stop():
        pass
    hooks.close()


def test_the_controller_hears_where_a_gang_went_on(board: HereBoard) -> None:
    board.enter.remote("dit")
    assert look(board, "dit").began_at is None
    event = {"kind": "moment", "moment": "loaded", "step": 20}
    board.exchange.remote("dit", [json.dumps(event)])
    assert look(board, "dit").began_at == 20
    board.begin.remote("dit")
    assert look(board, "dit").began_at is None


def test_the_controller_hears_how_long_training_has_left(board: HereBoard) -> None:
    board.enter.remote("dit")
    hooks = BoardHooks(board, stage="dit")
    hooks.event({"kind": "progress", "stage": "dit", "step": 1, "eta_s": 90.0})
    hooks.event({"kind": "progress", "stage": "dit", "step": 2})  # of a stop: it says nothing
    hooks.close()
    assert look(board, "dit").left_s == 90.0


def test_a_new_gang_is_asked_nothing_that_the_last_one_was(board: HereBoard) -> None:
    board.enter.remote("dit")
    board.place.remote("dit", 4, "group")
    board.exchange.remote("dit", [], None, 90.0)
    board.pause.remote("dit")
    assert board.begin.remote("dit") is False
    assert look(board, "dit") == GangState()
    assert board.exchange.remote("dit", []) == Asked.NOTHING


def test_a_stage_that_should_end_starts_no_gang(board: HereBoard) -> None:
    board.enter.remote("dit")
    board.stop.remote("dit")
    assert board.begin.remote("dit") is True
    assert board.exchange.remote("dit", []) == Asked.STOP


def test_nobody_grows_while_another_stage_looks_for_its_place(board: HereBoard) -> None:
    for stage in ("dit", "other"):
        board.enter.remote(stage)
        board.place.remote(stage, 2, "group")
    assert board.may_grow.remote("dit")
    board.place.remote("other", 0)  # it has lost a node
    assert not board.may_grow.remote("dit")
    board.leave.remote("other")
    board.stop.remote("other")  # said too late: nobody listens
    assert board.may_grow.remote("dit")


def test_nobody_grows_into_room_that_a_waiting_stage_could_have(board: HereBoard) -> None:
    board.enter.remote("dit")
    board.let_grow.remote(False)
    assert not board.may_grow.remote("dit")
    board.let_grow.remote(True)
    assert board.may_grow.remote("dit")
