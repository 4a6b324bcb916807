"""What may be in a stranger's tar, and where its members are."""

import io
import tarfile
from collections.abc import Callable, Mapping

import pytest

from orchestrator.data.names import key_and_ext
from orchestrator.data.tars import read_tar

LONG = "folder/" + "x" * 200 + ".mp4"


def tar_of(
    files: Mapping[str, bytes],
    *,
    form: int = tarfile.PAX_FORMAT,
    change: Callable[[tarfile.TarInfo], None] = lambda _: None,
) -> bytes:
    """A tar of such files; ``change`` is made to the last header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for number, (name, data) in enumerate(files.items(), start=1):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            if number == len(files):
                change(header)
            archive.addfile(header, io.BytesIO(data[: header.size]))
    return buffer.getvalue()


def link_to(kind: bytes) -> Callable[[tarfile.TarInfo], None]:
    def change(header: tarfile.TarInfo) -> None:
        header.type, header.linkname, header.size = kind, "/etc/passwd", 0

    return change


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_are_where_long_and_foreign_names_leave_them(form: int) -> None:
    names = (
        ["a.mp4"] if form == tarfile.USTAR_FORMAT else ["a.mp4", LONG, "\u00e9\u6f22.txt", "b.txt"]
    )
    data = tar_of({name: name.encode() for name in names}, form=form)
    contents = read_tar(data)
    assert contents.faults == ()
    assert [file.name for file in contents.files] == names
    for file in contents.files:
        assert data[file.offset : file.offset + file.size] == file.name.encode()


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("/a.mp4", lambda _: None, "/a.mp4: an absolute name"),
        ("../a.mp4", lambda _: None, r"\.\./a\.mp4: a name with \.\."),
        ("x/../../a.mp4", lambda _: None, r"x/\.\./\.\./a\.mp4: a name with"),
        ("a.mp4", link_to(tarfile.SYMTYPE), r"a\.mp4: a link"),
        ("a.mp4", link_to(tarfile.LNKTYPE), r"a\.mp4: a link"),
        ("a.mp4", link_to(tarfile.CHRTYPE), r"a\.mp4: a device"),
        ("a.mp4", link_to(tarfile.FIFOTYPE), r"a\.mp4: a pipe"),
    ],
)
def test_what_may_not_be_in_a_tar_is_named(
    name: str, change: Callable[[tarfile.TarInfo], None], told: str
) -> None:
    contents = read_tar(tar_of({"b.mp4": b"data", name: b"data"}, change=change))
    assert [file.name for file in contents.files] == ["b.mp4"]
    (fault,) = contents.faults
    assert fault.startswith(told.replace("\\", ""))
    assert "\n" not in fault


def test_folders_are_passed_over() -> None:
    def folder(header: tarfile.TarInfo) -> None:
        header.type, header.size = tarfile.DIRTYPE, 0

    contents = read_tar(tar_of({"b/a.mp4": b"data", "b": b""}, change=folder))
    assert [file.name for file in contents.files] == ["b/a.mp4"]
    assert contents.faults == ()


def spoilt_header(data: bytes) -> bytes:
    at = data.index(b"b.mp4")
    return data[:at] + b"?" + data[at + 1 :]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda _: b"", "not a whole tar file (empty file)"),
        (lambda _: b"no tar at all" * 100, "not a whole tar file ("),
        (lambda data: data[:1000], "a.mp4: a damaged size of 700 bytes"),
        (lambda data: data[: 3 * 512], "not a whole tar file (it breaks off at byte 1536)"),
        (spoilt_header, "not a whole tar file (no header at byte 1536)"),
    ],
)
def test_tar_that_breaks_off_is_told(spoil: Callable[[bytes], bytes], told: str) -> None:
    whole = tar_of({"a.mp4": b"a" * 700, "b.mp4": b"b"})
    faults = read_tar(spoil(whole)).faults
    assert len(faults) == 1
    assert faults[0].startswith(told)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.mp4", ("a", "mp4")),
        ("a.low.MP4", ("a", "low.mp4")),
        ("x.y/a.txt", ("x.y/a", "txt")),
        ("./a.txt", ("./a", "txt")),
        ("a", None),
        (".a.mp4", None),
        ("x.y/a", None),
    ],
)
def test_key_ends_at_the_first_dot_of_the_base_name(
    name: str, wanted: tuple[str, str] | None
) -> None:
    assert key_and_ext(name) == wanted
