"""Encoded clips into shards of about one size, one bucket after the other."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.data.buckets import RatedBucket
from orchestrator.data.prepare.blobs import read_blob
from orchestrator.data.prepare.claim import Claim
from orchestrator.data.prepare.records import Packed, Row
from orchestrator.data.shards import NewSample, write_shard
from orchestrator.storage.store import Store

VERSION = 1

_HEADERS_BYTES = 3 * 1024  # of a clip's three files in a tar, and what fills its blocks


@dataclass(frozen=True)
class Planned(Row):
    """A clip that is to be in a shard, and where its bytes are until then.

    ``frames`` are stored, of which training sees ``seen`` at a time.
    """

    shard: str
    source: str
    file: str
    offset: int
    size: int
    xxh64: str
    ext: str
    frames: int
    seen: int
    height: int
    width: int
    fps: float
    captions: tuple[str, ...]
    labels: str  # JSON
    original: str
    start_s: float
    end_s: float

    @property
    def stored(self) -> tuple[int, int, int]:
        """What its file holds: frames, height, width."""
        return self.frames, self.height, self.width

    @property
    def seen_as(self) -> RatedBucket | None:
        """What training sees of that; None: all of it."""
        if self.seen == self.frames:
            return None
        return RatedBucket(shape=(self.seen, self.height, self.width), fps=self.fps)


def shares(clips: Iterable[tuple[tuple[int, int, int], int]], *, shard_bytes: int) -> list[int]:
    """The number of the shard of every clip.

    A shard has clips of one bucket, so that a trainer's cache holds what it asks for. It is closed
    before it would become larger than ``shard_bytes``; a single clip may be larger.

    Args:
        clips: bucket and bytes of each, buckets together.
        shard_bytes: of a shard, at most.
    """
    numbers: list[int] = []
    number, filled, last = -1, 0, None
    for shape, size in clips:
        whole = size + _HEADERS_BYTES
        if shape != last or filled + whole > shard_bytes:
            number, filled, last = number + 1, 0, shape
        filled += whole
        numbers.append(number)
    return numbers


def pack(store: Store, planned: Sequence[Planned], *, claim: Claim) -> list[Packed]:
    """Writes a shard: of every clip its frames, its first caption and a JSON that says it all.

    Raises:
        UserError: if the bytes of a clip are not those that were written.
        FencedError: if another start has taken the target; nothing is written then.
    """
    (shard,) = {one.shard for one in planned}
    write_shard(store, shard, _samples(store, planned, claim=claim))
    return [Packed(one.key, shard=shard) for one in planned]


def _samples(store: Store, planned: Sequence[Planned], *, claim: Claim) -> Iterator[NewSample]:
    for one in planned:
        yield _sample(store, one)
    claim.check()  # all are read: the shard is written next


def _sample(store: Store, clip: Planned) -> NewSample:
    labels = json.loads(clip.labels)
    is_cut = clip.end_s > clip.start_s
    place = {"start_s": clip.start_s, "end_s": clip.end_s} if is_cut else {}
    said = {"captions": clip.captions, "fps": clip.fps, "labels": labels}
    text = json.dumps({**said, "original": clip.original, **place}, sort_keys=True)
    data = read_blob(store, clip.file, offset=clip.offset, size=clip.size, xxh64=clip.xxh64)
    caption = {"txt": clip.captions[0].encode()} if clip.captions else {}
    return NewSample(
        key=clip.key,
        members={clip.ext: data, **caption, "json": text.encode()},
        bucket=clip.stored,
        fps=clip.fps,
        source=clip.source,
        captions=clip.captions,
        labels=labels,
        original=clip.original if is_cut else None,
        start_s=clip.start_s if is_cut else None,
        end_s=clip.end_s if is_cut else None,
        seen_as=clip.seen_as,
    )
