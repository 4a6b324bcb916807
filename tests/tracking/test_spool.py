"""The append-only file that events wait in."""

import os
import threading
from pathlib import Path

import pytest

from orchestrator.errors import UnavailableError, UserError
from orchestrator.tracking.spool import (
    EVENTS,
    SpoolWriter,
    State,
    StateFile,
    read_lines,
    spool_folder,
)


def events(folder: Path, *, start: int = 0) -> list[object]:
    return [line.event for line in read_lines(folder, start=start)]


def test_what_is_written_is_read_in_order(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)
    written = [{"kind": "note", "text": f"line\n{number}"} for number in range(5)]
    for event in written:
        writer.append(event)
    assert events(tmp_path) == written
    lines = list(read_lines(tmp_path, start=0))
    assert events(tmp_path, start=lines[2].end) == written[3:]
    assert lines[-1].end == writer.size


def test_a_line_is_not_read_before_it_is_whole(tmp_path: Path) -> None:
    SpoolWriter(tmp_path).append({"n": 1})
    with (tmp_path / EVENTS).open("ab") as file:
        file.write(b'{"n": 2')
    assert events(tmp_path) == [{"n": 1}]


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    SpoolWriter(tmp_path).append({"n": 1})
    with (tmp_path / EVENTS).open("ab") as file:
        file.write(b'{"n": 2')
    SpoolWriter(tmp_path).append({"n": 3})
    assert events(tmp_path) == [{"n": 1}, None, {"n": 3}]


def test_lines_of_many_threads_do_not_mix(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)

    def write(name: str) -> None:
        for number in range(200):
            writer.append({"name": name, "number": number})

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = events(tmp_path)
    assert len(read) == 800
    for name in "abcd":
        numbers = [one["number"] for one in read if isinstance(one, dict) and one["name"] == name]
        assert numbers == list(range(200))


def test_a_chunk_ends_after_its_bytes(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)
    for number in range(100):
        writer.append({"number": number})
    assert len(list(read_lines(tmp_path, start=0, max_bytes=50))) == 4


def test_a_full_disk_is_one_line_and_the_next_event_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SpoolWriter(tmp_path)
    write = os.write
    results = iter([4, OSError(28, "No space left on device")])

    def full(fd: int, data: bytes) -> int:
        result = next(results)
        if isinstance(result, OSError):
            raise result
        return write(fd, data[:result])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(UnavailableError, match=r"events\.jsonl: No space left on device$"):
            writer.append({"n": 1})
    writer.append({"n": 2})
    assert events(tmp_path) == [None, {"n": 2}]


def test_nothing_is_written_after_the_end(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)
    writer.close()
    with (tmp_path / "other").open("wb"), pytest.raises(UnavailableError):
        writer.append({"n": 1})
    assert (tmp_path / "other").read_bytes() == b""


def test_a_folder_that_cannot_be_made_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"tracking spool .*events\.jsonl"):
        SpoolWriter(tmp_path / "file" / "spool")


def test_two_runs_in_one_place_have_a_folder_each(tmp_path: Path) -> None:
    one, two = (spool_folder(tmp_path, run_uri=run) for run in ("/runs/a", "/runs/b"))
    assert one != two
    assert one == spool_folder(tmp_path, run_uri="/runs/a")


def test_a_state_is_kept_per_tracking_store(tmp_path: Path) -> None:
    state = State(offset=7, parent="abc", marks={"dit": {"loss": 3}})
    StateFile(tmp_path, target="one").save(state)
    assert StateFile(tmp_path, target="one").load() == state
    assert StateFile(tmp_path, target="two").load() == State()


def test_a_damaged_state_starts_over(tmp_path: Path) -> None:
    file = StateFile(tmp_path, target="one")
    file.save(State(offset=7))
    next(tmp_path.glob("state-*.json")).write_text('{"offset":')
    assert file.load() == State()
