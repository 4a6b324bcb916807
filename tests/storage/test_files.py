"""Files that stay open: read in places, by any thread, closed when nobody holds them."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.errors import UnavailableError
from orchestrator.storage import retry
from orchestrator.storage.files import OpenFile, OpenFiles

BODY = bytes(range(100))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "body"
    path.write_bytes(BODY)
    return path


def read(file: OpenFile, *sizes: int, offset: int) -> tuple[int, list[bytes]]:
    buffers = [bytearray(size) for size in sizes]
    done = file.read_into(buffers, offset=offset, size=sum(sizes))
    return done, [bytes(one) for one in buffers]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_buffers_are_filled_one_after_the_other(path: Path) -> None:
    file = OpenFile(path)
    assert read(file, 3, 5, 2, offset=10) == (10, [BODY[10:13], BODY[13:18], BODY[18:20]])
    assert read(file, 3, 5, offset=96) == (4, [BODY[96:99], BODY[99:] + bytes(4)])
    assert read(file, 4, offset=200) == (0, [bytes(4)])
    assert file.read(5, offset=98) == BODY[98:]


def test_a_call_that_is_cut_short_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.preadv

    def some(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        return whole(fd, [memoryview(buffers[0])[:4]], offset)

    monkeypatch.setattr(os, "preadv", some)
    assert read(OpenFile(path), 6, 7, offset=10) == (13, [BODY[10:16], BODY[16:23]])


def test_a_stale_handle_is_opened_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, fails = os.preadv, [errno.ESTALE, errno.ESTALE]

    def stale(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if fails:
            raise OSError(fails.pop(), "stale")
        return whole(fd, buffers, offset)

    monkeypatch.setattr(retry.time, "sleep", lambda _: None)
    file = OpenFile(path)
    (path.parent / "new").write_bytes(BODY[::-1])
    (path.parent / "new").replace(path)
    monkeypatch.setattr(os, "preadv", stale)
    assert read(file, 4, offset=0) == (4, [BODY[::-1][:4]])
    assert not fails


def test_a_disk_that_keeps_failing_is_unavailable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    file = OpenFile(path)
    monkeypatch.setattr(os, "preadv", fails)
    monkeypatch.setattr("orchestrator.storage.folder.retrying", once)
    with pytest.raises(UnavailableError, match=r"read .*/body: gave up after 1 tries"):
        read(file, 4, offset=0)


def once(call: object, *, what: str) -> object:
    return retry.retrying(call, what=what, attempts=1)  # pyright: ignore[reportArgumentType]


def test_a_file_is_closed_when_nobody_holds_it(path: Path) -> None:
    before = open_files()
    files = OpenFiles(most=2)
    held = OpenFile(path)
    for number in range(5):
        files.put(str(number), held if number == 0 else OpenFile(path))
    assert open_files() == before + 3
    path.unlink()
    assert held.is_deleted()
    assert held.read(3, offset=1) == BODY[1:4]  # though it is none of the two
    del held
    assert open_files() == before + 2
    newest = files.get("4")
    assert newest is not None
    assert files.get("0") is None
    files.drop(newest)
    del newest
    assert open_files() == before + 1
