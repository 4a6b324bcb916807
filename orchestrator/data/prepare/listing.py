"""What is to be prepared: videos and images below a folder, with captions beside them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.data.names import is_utf8
from orchestrator.data.prepare.keys import keys_of
from orchestrator.data.prepare.records import IMAGE, NAME, VIDEO, Listed
from orchestrator.data.prepare.tables import is_table, list_table
from orchestrator.errors import UserError
from orchestrator.storage.store import Entry, join_uri, open_store, resolve

VIDEOS = ("mp4", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "m4v")
IMAGES = ("jpg", "jpeg", "png", "webp")
_BESIDE = ("txt", "json")


@dataclass(frozen=True)
class Listing:
    """Videos and images by key, and how many files are neither these nor their captions."""

    rows: tuple[Listed, ...]
    others: int


def list_source(source: str, *, target: str) -> Listing:
    """Finds what is to be prepared.

    Args:
        source: a folder or prefix, or a table of paths (``tables.py``).
        target: where shards go; what lies there is not looked at.

    Raises:
        UserError: if there is nothing, the table is not one, or anything lies in the target: what
            lies there may be deleted.
    """
    uri, out = resolve(source), resolve(target)
    if out == uri:
        raise UserError(f"{uri}: both SOURCE and TARGET, wanted another place for the shards")
    _refuse_inside(uri, out)
    if is_table(uri):
        rows = list_table(uri, kind_of=_kind_in_table)
        for row in rows:
            _refuse_inside(resolve(join_uri(row.root, row.name)), out)
        return Listing(rows=rows, others=0)
    store = open_store(uri)
    inside = out.removeprefix(uri + "/") + "/" if out.startswith(uri + "/") else None
    entries = [one for one in store.entries("") if inside is None or not one.key.startswith(inside)]
    listing = _listing(uri, entries)
    if not listing.rows:
        raise UserError(
            f"{uri}: no videos or images, wanted one of {', '.join((*VIDEOS, *IMAGES))}"
        )
    return listing


def _refuse_inside(uri: str, target: str) -> None:
    if uri.startswith(target.rstrip("/") + "/"):
        raise UserError(f"{uri}: inside of TARGET {target}, wanted another place for the shards")


def _listing(root: str, entries: Sequence[Entry]) -> Listing:
    named: dict[str, dict[str, Entry]] = defaultdict(dict)
    media: list[tuple[str, Entry, str]] = []
    for entry in entries:
        stem, ext = _split(entry.key)
        if kind := _kind(ext):
            media.append((stem, entry, kind))
        elif ext in _BESIDE:
            named[stem][ext] = entry
    keys = keys_of([entry.key for _, entry, _ in media])
    rows = tuple(
        _row(root, key=key, entry=entry, kind=kind, beside=named.get(stem, {}))
        for key, (stem, entry, kind) in zip(keys, media, strict=True)
    )
    used = sum(len(named.get(stem, {})) for stem in {stem for stem, _, _ in media})
    return Listing(rows=rows, others=len(entries) - len(rows) - used)


def _row(root: str, *, key: str, entry: Entry, kind: str, beside: dict[str, Entry]) -> Listed:
    names = {ext: one.key for ext, one in sorted(beside.items())}
    row = Listed(
        key=key,
        root=root,
        name=entry.key,
        kind=kind,
        size=entry.size,
        tag=entry.tag,
        txt=names.get("txt"),
        json=names.get("json"),
        beside=" ".join(f"{ext}:{one.size}:{one.tag}" for ext, one in sorted(beside.items())),
    )
    if is_utf8(entry.key):
        return row
    shown = entry.key.encode(errors="surrogateescape").decode(errors="replace")
    return Listed(
        key=key,
        root=root,
        name=shown,
        kind=kind,
        size=entry.size,
        tag=entry.tag,
        reason=NAME,
        detail="the file's name is not UTF-8",
    )


def _split(name: str) -> tuple[str, str]:
    stem, dot, ext = name.rpartition(".")
    return (stem, ext.lower()) if dot and "/" not in ext else (name, "")


def _kind(ext: str) -> str | None:
    return VIDEO if ext in VIDEOS else IMAGE if ext in IMAGES else None


def _kind_in_table(path: str) -> str:
    """Whoever names a file in a table means it: what is no image is tried as a video."""
    return _kind(_split(path)[1]) or VIDEO
