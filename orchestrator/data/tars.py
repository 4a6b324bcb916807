"""What a tar file holds, and what in it may not be there: nothing is ever unpacked."""

import io
import tarfile
from dataclasses import dataclass

from orchestrator.data.names import shown, unsafe

_KINDS = {
    tarfile.SYMTYPE: "a link",
    tarfile.LNKTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
# What tarfile raises over headers that are no headers.
_MALFORMED = (tarfile.TarError, ValueError, IndexError, OverflowError, RecursionError)


@dataclass(frozen=True)
class TarFile:
    """A regular file in a tar; offset and size of its data in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarContents:
    """The files of a tar in order, and one line for everything that is wrong with it."""

    files: tuple[TarFile, ...]
    faults: tuple[str, ...]


def read_tar(data: bytes) -> TarContents:
    """Walks over the headers of an uncompressed tar, PAX and GNU ones too.

    Faults are links, devices and other entries that are neither file nor folder, sparse files,
    names that are absolute, hold ``..`` or are not UTF-8, and a tar that breaks off.
    """
    files: list[TarFile] = []
    faults: list[str] = []
    end = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for entry in archive:
                last = entry.offset_data + entry.size
                if entry.size < 0 or entry.offset_data < end or last > len(data):
                    faults.append(f"{shown(entry.name)}: a damaged size of {entry.size} bytes")
                    break
                end = entry.offset_data
                why = _refused(entry)
                if why is not None:
                    faults.append(f"{shown(entry.name)}: {why}, wanted plain files below a folder")
                elif entry.isreg():
                    end = last
                    files.append(TarFile(entry.name, offset=entry.offset_data, size=entry.size))
            else:
                faults += _end_faults(data, at=archive.offset)
    except _MALFORMED as error:
        faults.append(f"not a whole tar file ({' '.join(str(error).split())})")
    return TarContents(files=tuple(files), faults=tuple(faults))


def _refused(entry: tarfile.TarInfo) -> str | None:
    if not (entry.isreg() or entry.isdir()):
        return _KINDS.get(entry.type, f"an entry of type {entry.type!r}")
    return "a sparse file" if entry.issparse() else unsafe(entry.name)


def _end_faults(data: bytes, *, at: int) -> list[str]:
    """Tarfile stops without a word where a header is damaged, and where there is nothing more."""
    rest = data[at:]
    if rest.count(0) != len(rest):
        return [f"not a whole tar file (no header at byte {at})"]
    return [] if rest else [f"not a whole tar file (it breaks off at byte {at})"]
