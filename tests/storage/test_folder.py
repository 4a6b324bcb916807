"""What a folder does when the disk does not."""

import errno
import mmap
import os
import random
import stat
from pathlib import Path

import pytest

from orchestrator.errors import UnavailableError, UserError
from orchestrator.storage import folder as folder_module
from orchestrator.storage.direct import LEAST_BYTES, write_direct
from orchestrator.storage.store import open_store


def failing(number: int, *, times: int = 1_000_000) -> object:
    """A system call that fails some times with an error number."""
    left = times

    def call(*_: object) -> None:
        nonlocal left
        if left:
            left -= 1
            raise OSError(number, os.strerror(number))

    return call


def test_a_full_disk_is_one_line_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    store.put("a/b", b"old")
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    for write in (store.put, store.put_new):
        with pytest.raises(UserError, match=r"a/b: No space left on device$"):
            write("a/b", b"new")
    monkeypatch.undo()
    assert store.get("a/b") == b"old"
    assert os.listdir(tmp_path / "a") == ["b"]


LARGE = LEAST_BYTES * 5 + 4097  # more than a piece, and no whole number of blocks


def large(*, offset: int) -> memoryview:
    """Bytes of no pattern that begin so many after a page boundary."""
    pages = mmap.mmap(-1, LARGE + offset)
    pages[offset:] = random.Random(0).randbytes(LARGE)
    return memoryview(pages)[offset:]


@pytest.mark.parametrize("offset", [0, 8])
def test_a_large_file_is_written_past_the_cache(tmp_path: Path, offset: int) -> None:
    data = large(offset=offset)
    if not write_direct(tmp_path / "direct", data):
        pytest.skip("the file system of temporary folders can not")
    assert (tmp_path / "direct").read_bytes() == data


@pytest.mark.parametrize("call", ["open", "write"])
@pytest.mark.parametrize("offset", [0, 8])
def test_a_large_file_is_written_where_the_cache_can_not_be_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, offset: int
) -> None:
    store, data = open_store(str(tmp_path)), large(offset=offset)
    store.put("a", b"old")
    real, refused = getattr(os, call), failing(errno.EINVAL, times=1)

    def once(*arguments: object) -> object:
        refused()  # pyright: ignore[reportCallIssue]
        return real(*arguments)

    monkeypatch.setattr(os, call, once)
    store.put("a", data)
    monkeypatch.undo()
    assert store.get("a") == data
    assert os.listdir(tmp_path) == ["a"]


def test_a_disk_that_fills_up_under_a_large_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    store.put("a", b"old")
    monkeypatch.setattr(os, "write", failing(errno.ENOSPC))
    with pytest.raises(UserError, match=r"/a: No space left on device$"):
        store.put("a", large(offset=0))
    monkeypatch.undo()
    assert store.get("a") == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_mounted_folder_recovers_from_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.ESTALE, times=2))
    store = open_store(str(tmp_path))
    store.put("a", b"data")
    assert store.get("a") == b"data"


def test_a_mounted_folder_that_stays_away_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrying = folder_module.retrying
    monkeypatch.setattr(os, "fsync", failing(errno.ESTALE))
    monkeypatch.setattr(
        folder_module,
        "retrying",
        lambda call, *, what: retrying(call, what=what, sleep=lambda _: None),
    )
    with pytest.raises(UnavailableError, match=f"write {tmp_path}/a: gave up after 20 tries"):
        open_store(str(tmp_path)).put("a", b"data")


def test_a_forbidden_folder_is_one_line() -> None:
    # /sys takes no new files, from root neither.
    store = open_store("/sys")
    for call in (
        store.check,
        lambda: store.put("rushes", b""),
        lambda: store.put_new("rushes", b""),
    ):
        with pytest.raises(UserError, match=r"/sys.*: (permission denied|Read-only|Operation)"):
            call()


def test_a_file_where_a_folder_is_wanted_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = open_store(str(tmp_path / "file"))
    with pytest.raises(UserError, match="file"):
        store.check()
    with pytest.raises(UserError, match="file/key"):
        store.put("key", b"")


def test_without_hard_links_one_writer_still_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    store = open_store(str(tmp_path))
    assert store.put_new("lease", b"first")
    assert not store.put_new("lease", b"second")
    assert store.get("lease") == b"first"
    assert os.listdir(tmp_path) == ["lease"]


def test_a_link_whose_answer_was_lost_still_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def made_but_not_told(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", made_but_not_told)
    assert open_store(str(tmp_path)).put_new("lease", b"ours")


def test_files_are_as_readable_as_the_user_wants(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        store = open_store(str(tmp_path))
        store.put("a", b"")
        store.put_new("b", b"")
    finally:
        os.umask(mask)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"} == {0o644}


def test_a_file_that_is_being_written_is_not_listed(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("a/b", b"")
    (tmp_path / "a" / ".part-123-dead").write_bytes(b"half")
    assert store.list("") == ["a/b"]


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd"])
def test_a_key_stays_below_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match="must stay below"):
        open_store(str(tmp_path)).get(key)
