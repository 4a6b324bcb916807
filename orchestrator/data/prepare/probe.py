"""First step: whether a file decodes from its first to its last frame, and what it is."""

import json

from orchestrator.data.describe import Description, describe
from orchestrator.data.prepare.media import BrokenError, declared_s, decoded, image, one_file
from orchestrator.data.prepare.records import (
    BROKEN,
    CAPTION,
    EMPTY,
    IMAGE,
    MISSING,
    Listed,
    Probed,
)
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.store import open_store

VERSION = 1

_LACKING_S, _LACKING_SHARE = 0.5, 0.05  # of its length, that a header may be wrong by


def probe(row: Listed) -> Probed:
    """Looks at all of a video or an image, and at what is written beside it.

    Raises:
        RushesError: if its store does not answer; all that is wrong with the file is in the row.
    """
    if row.reason is not None:
        return Probed(row.key, reason=row.reason, detail=row.detail)
    try:
        if not row.size:
            raise BrokenError(EMPTY, "no bytes")
        said = _described(row)
        return _image(row, said) if row.kind == IMAGE else _video(row, said)
    except BrokenError as error:
        return Probed(row.key, reason=error.reason, detail=error.detail)
    except NotFoundError:
        return Probed(row.key, reason=MISSING, detail="gone since it was listed")


def _described(row: Listed) -> Description:
    """Captions are of the table, or beside a file that was found below a folder."""
    store = open_store(row.root)
    named = {"txt": row.txt, "json": row.json}
    try:
        with one_file():
            texts = {ext: store.get(name) for ext, name in named.items() if name is not None}
        found = describe(texts)
    except ValueError as error:
        raise BrokenError(CAPTION, str(error)) from None
    return Description(
        captions=tuple(dict.fromkeys(row.captions or found.captions)),
        labels=found.labels,
        fps=found.fps,
    )


def _image(row: Listed, said: Description) -> Probed:
    height, width, _ = image(row.root, row.name, size=row.size).shape
    return Probed(
        row.key,
        frames=1,
        height=height,
        width=width,
        captions=said.captions,
        labels=json.dumps(said.labels, sort_keys=True),
    )


def _video(row: Listed, said: Description) -> Probed:
    frames = corrupt = 0
    end_s = last_s = 0.0
    size = (0, 0)
    for frame in decoded(row.root, row.name, size=row.size):
        frames += 1
        corrupt += frame.raw.is_corrupt
        last_s, end_s = frame.time_s, frame.time_s + frame.duration_s
        size = size if frames > 1 else frame.size
    if corrupt:
        raise BrokenError(BROKEN, f"{corrupt} of {frames} frames are damaged")
    told_s = declared_s(row.root, row.name, size=row.size)
    if told_s is not None and told_s - end_s > max(_LACKING_S, _LACKING_SHARE * told_s):
        raise BrokenError(BROKEN, f"ends after {end_s:.2f} s of {told_s:.2f} s")
    return Probed(
        row.key,
        frames=frames,
        fps=(frames - 1) / last_s if frames > 1 else 1 / end_s,
        duration_s=end_s,
        height=size[0],
        width=size[1],
        captions=said.captions,
        labels=json.dumps(said.labels, sort_keys=True),
    )
