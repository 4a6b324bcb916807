"""Clips after all steps: what became of each, and which shard takes it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.data.prepare.choose import Looked
from orchestrator.data.prepare.fates import CLIP, Fate
from orchestrator.data.prepare.pack import Planned, shares
from orchestrator.data.prepare.records import Chosen, Clip, Cut, Encoded, Listed, Probed, Row, Seen
from orchestrator.data.shards import shard_name
from orchestrator.recipe.prepare import Bucket, Prepare
from orchestrator.storage.store import join_uri


@dataclass(frozen=True)
class Finished:
    """A clip that was scored, and what the steps after that made of it."""

    looked: Looked
    chosen: Chosen
    encoded: Encoded | None
    said: tuple[Seen, ...]

    @classmethod
    def of(
        cls,
        one: Looked,
        chosen: Chosen,
        *,
        encoded: Mapping[str, Encoded],
        said: Sequence[Mapping[str, Seen]],
    ) -> "Finished":
        """Finds a clip's rows; one that was not chosen has none."""
        return cls(
            looked=one,
            chosen=chosen,
            encoded=encoded.get(chosen.key),
            said=tuple(rows[chosen.key] for rows in said if chosen.key in rows),
        )

    @property
    def verdict(self) -> tuple[str | None, Row]:
        """The step that rejected it and its row; None if it is kept."""
        rows: list[tuple[str, Row]] = [("score", self.looked.scored)]
        rows += [("score", row) for row in self.looked.seen]
        rows.append(("choose", self.chosen))
        rows += [("encode", self.encoded)] if self.encoded is not None else []
        rows += [("caption", row) for row in self.said]
        rejected = next(((step, row) for step, row in rows if row.reason is not None), None)
        return rejected or (None, self.chosen)

    @property
    def is_kept(self) -> bool:
        """Whether it goes to a shard."""
        return self.verdict[0] is None

    @property
    def captions(self) -> tuple[str, ...]:
        """Those that came with the video, then those of models, each once."""
        texts = [
            *self.looked.probed.captions,
            *(text for row in self.said for text in row.captions),
        ]
        return tuple(dict.fromkeys(texts))

    @property
    def scores(self) -> dict[str, float]:
        """All of them."""
        return dict(self.looked.scores) | {k: v for row in self.said for k, v in row.scores.items()}

    def bucket(self, config: Prepare) -> Bucket:
        """That it goes to."""
        assert self.chosen.bucket is not None, self.chosen.key
        return config.buckets[self.chosen.bucket]

    def shape(self, config: Prepare) -> tuple[int, int, int]:
        """Frames, height and width that training sees of it."""
        bucket = self.bucket(config)
        return (bucket.frames, *bucket.size)


def planned_of(clips: Sequence[Finished], *, config: Prepare, source: str) -> Iterator[Planned]:
    """Kept clips by shape, then key, each with its shard."""
    kept = sorted(
        (one for one in clips if one.is_kept), key=lambda one: (one.shape(config), one.chosen.key)
    )
    sizes = [(one.shape(config), one.encoded.size if one.encoded else 0) for one in kept]
    numbers = shares(sizes, shard_bytes=config.shard_bytes)
    for one, number in zip(kept, numbers, strict=True):
        yield _planned(one, shard=shard_name(number), config=config, source=source)


def _planned(one: Finished, *, shard: str, config: Prepare, source: str) -> Planned:
    assert one.encoded is not None, one.chosen.key
    fps = one.bucket(config).fps
    seen, height, width = one.shape(config)
    frames = one.chosen.frames
    start_s = one.chosen.start_s
    is_image = one.looked.shape.is_image
    labels = {"scores": one.scores} | json.loads(one.looked.probed.labels)
    return Planned(
        one.chosen.key,
        shard=shard,
        source=source,
        file=one.encoded.file,
        offset=one.encoded.offset,
        size=one.encoded.size,
        xxh64=one.encoded.xxh64,
        ext=one.encoded.ext,
        frames=frames,
        seen=seen,
        height=height,
        width=width,
        fps=fps,
        captions=one.captions,
        labels=json.dumps(labels, sort_keys=True),
        original=join_uri(one.looked.listed.root, one.looked.listed.name),
        start_s=start_s,
        end_s=start_s if is_image else start_s + frames / fps,
    )


def fates_of(
    listed: Sequence[Listed],
    probed: Sequence[Probed],
    cuts: Sequence[Cut],
    clips: Sequence[Clip],
    *,
    finished: Mapping[str, Finished],
    shards: Mapping[str, str],
    config: Prepare,
) -> Iterator[Fate]:
    """A fate for every file, each followed by those of its clips.

    Args:
        listed, probed, cuts, clips: rows of a unit.
        finished: clips that were scored, by key.
        shards: of kept clips, by key.
        config: of it all.
    """
    probes = {row.key: row for row in probed}
    scenes = {row.key: row for row in cuts}
    by_video: dict[str, list[Clip]] = {}
    for clip in clips:
        by_video.setdefault(clip.video, []).append(clip)
    for row in listed:
        probe = probes[row.key]
        rows: list[tuple[str, Row | None]] = [("probe", probe), ("scenes", scenes.get(row.key))]
        yield _file_fate(row, probe, rows)
        for clip in by_video.get(row.key, ()):
            yield _clip_fate(clip, row, probe, finished.get(clip.key), shards=shards, config=config)


def _file_fate(row: Listed, probe: Probed, rows: Sequence[tuple[str, Row | None]]) -> Fate:
    rejected = next(((step, one) for step, one in rows if one and one.reason is not None), None)
    step, why = rejected or (None, probe)
    return Fate(
        kind=row.kind,
        key=row.key,
        video=row.key,
        uri=join_uri(row.root, row.name),
        reason=why.reason,
        detail=why.detail,
        step=step,
        fps=probe.fps or None,
        height=probe.height or None,
        width=probe.width or None,
        captions=probe.captions,
        end_s=probe.duration_s or None,
    )


def _clip_fate(
    clip: Clip,
    row: Listed,
    probe: Probed,
    one: Finished | None,
    *,
    shards: Mapping[str, str],
    config: Prepare,
) -> Fate:
    step, why = ("clips", clip) if one is None else one.verdict
    is_kept = one is not None and one.is_kept
    return Fate(
        kind=CLIP,
        key=clip.key,
        video=row.key,
        uri=join_uri(row.root, row.name),
        reason=why.reason,
        detail=why.detail,
        step=step,
        scene=clip.scene,
        start_s=clip.start_s,
        end_s=clip.end_s,
        fps=probe.fps or None,
        height=probe.height,
        width=probe.width,
        scores={} if one is None else one.scores,
        captions=probe.captions if one is None else one.captions,
        bucket=one.shape(config) if one is not None and is_kept else None,
        shard=shards.get(clip.key),
    )
