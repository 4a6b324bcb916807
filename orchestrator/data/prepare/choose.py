"""Which clips are kept: by their scores, by a bucket that they fit, and one of every double."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.data.prepare.buckets import Shape, place_of, stored_frames
from orchestrator.data.prepare.doubles import Candidate, doubles
from orchestrator.data.prepare.records import (
    DOUBLE,
    FAILED,
    IMAGE,
    NO_BUCKET,
    Chosen,
    Clip,
    Listed,
    Probed,
    Scored,
    Seen,
)
from orchestrator.recipe.prepare import Prepare

VERSION = 1


@dataclass(frozen=True)
class Looked:
    """A clip that is not rejected before it was scored, and all that is known of it."""

    clip: Clip
    listed: Listed
    probed: Probed
    scored: Scored
    seen: tuple[Seen, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def shape(self) -> Shape:
        """As it is fitted into a bucket."""
        return Shape(
            height=self.probed.height,
            width=self.probed.width,
            duration_s=self.clip.end_s - self.clip.start_s,
            fps=self.probed.fps,
            is_image=self.listed.kind == IMAGE,
        )


def looked(
    listed: Sequence[Listed],
    probed: Sequence[Probed],
    clips: Sequence[Clip],
    scored: Sequence[Scored],
    seen: Sequence[Sequence[Seen]],
) -> Iterator[Looked]:
    """Brings together what the steps before found of a unit's clips."""
    videos = {one.key: one for one in listed}
    probes = {one.key: one for one in probed}
    scores = {one.key: one for one in scored}
    models = [{one.key: one for one in rows} for rows in seen]
    for clip in clips:
        if clip.reason is not None:
            continue
        lacking = Scored(clip.key, video=clip.video, reason=FAILED, detail="was not scored")
        own = scores.get(clip.key, lacking)
        others = tuple(rows[clip.key] for rows in models if clip.key in rows)
        yield Looked(
            clip=clip,
            listed=videos[clip.video],
            probed=probes[clip.video],
            scored=own,
            seen=others,
            scores=dict(own.scores) | {k: v for one in others for k, v in one.scores.items()},
        )


def choose(clips: Sequence[Looked], *, config: Prepare) -> list[Chosen]:
    """A row for each of the clips, of the whole source, in their order."""
    chosen = [_alone(one, config=config) for one in clips]
    if config.dedup is None:
        return chosen
    candidates = [
        _candidate(one) for one, row in zip(clips, chosen, strict=True) if row.reason is None
    ]
    found = doubles(candidates, distance=config.dedup.distance)
    return [
        replace(row, reason=DOUBLE, detail=f"of {found[row.key]}", bucket=None, frames=0)
        if row.key in found
        else row
        for row in chosen
    ]


def _alone(one: Looked, *, config: Prepare) -> Chosen:
    clip = one.clip
    row = Chosen(clip.key, video=clip.video, start_s=clip.start_s, end_s=clip.end_s)
    for earlier in (one.scored, *one.seen):
        if earlier.reason is not None:
            return replace(row, reason=earlier.reason, detail=earlier.detail)
    for name, wanted in config.keep.items():
        if wanted is None or name not in one.scores:
            continue  # images have no motion: that does not speak against them
        if (missed := wanted.misses(one.scores[name])) is not None:
            return replace(row, reason=name, detail=missed)
    number = place_of(one.shape, config.buckets, max_crop=config.max_crop)
    if isinstance(number, str):
        return replace(row, reason=NO_BUCKET, detail=number)
    frames = stored_frames(one.shape, config.buckets[number], store=config.store)
    return replace(row, bucket=number, frames=frames)


def _candidate(one: Looked) -> Candidate:
    return Candidate(
        key=one.clip.key,
        video=one.clip.video,
        scene=one.clip.scene,
        hashes=tuple(int(text, 16) for text in one.scored.hashes),
        pixels=one.probed.height * one.probed.width,
        duration_s=one.clip.end_s - one.clip.start_s,
    )
