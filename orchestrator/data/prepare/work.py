"""Does tasks, in whatever process they come to: reads files of earlier steps, writes its own."""

import json
from collections.abc import Callable, Sequence
from typing import TypeVar

import cv2

from orchestrator.data.prepare.blobs import BlobWriter, read_blob
from orchestrator.data.prepare.claim import Claim
from orchestrator.data.prepare.clips import clips_of
from orchestrator.data.prepare.files import read_rows, write_rows
from orchestrator.data.prepare.media import BrokenError
from orchestrator.data.prepare.pack import Planned, pack
from orchestrator.data.prepare.plugins import see_raw, see_stored
from orchestrator.data.prepare.probe import probe
from orchestrator.data.prepare.records import (
    CRASHED,
    FAILED,
    MISSING,
    Chosen,
    Clip,
    Cut,
    Encoded,
    Listed,
    Packed,
    Probed,
    Row,
    Scored,
    Seen,
)
from orchestrator.data.prepare.scenes import cut
from orchestrator.data.prepare.score import score
from orchestrator.data.prepare.tasks import Task
from orchestrator.data.prepare.transcode import encoded
from orchestrator.errors import RushesError, in_a_line, told
from orchestrator.recipe.prepare import Prepare
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.store import open_store

T = TypeVar("T", bound=Row)


def work(chain: Sequence[str]) -> str:
    """Does tasks one after the other, up to the first that fails.

    Nothing is raised: whoever asked another process for it would take that for dead.

    Args:
        chain: tasks of a unit, as JSON.

    Returns:
        JSON: ``{}``, or ``{"error", "where"}`` of the task that failed.
    """
    cv2.setNumThreads(1)
    for text in chain:
        task = Task.from_json(text)
        try:
            _Unit(task).run()
        except Exception as error:  # the edge of this process
            return json.dumps({"error": told(error), "where": task.where})
    return "{}"


class _Unit:
    """A task with its store and configuration."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._store = open_store(task.target)
        self._config = Prepare.model_validate_json(json.dumps(task.config))

    def run(self) -> None:
        match self._task.step.partition("-")[0]:
            case "probe":
                self._write([self._probe(row) for row in self._listed()], kind=Probed)
            case "scenes":
                self._write([self._cut(row, found) for row, found in self._probed()], kind=Cut)
            case "clips":
                self._write(self._clips(), kind=Clip)
            case "score":
                if self._task.model is None:
                    self._write(self._scored(), kind=Scored)
                else:
                    self._write(self._seen(), kind=Seen)
            case "encode":
                self._write(self._encoded(), kind=Encoded)
            case "caption":
                self._write(self._captioned(), kind=Seen)
            case "shards":
                self._write(self._packed(), kind=Packed)
            case _:
                raise AssertionError(self._task.step)

    def _probe(self, row: Listed) -> Probed:
        (found,) = self._guarded(
            row.key,
            lambda: [probe(row)],
            otherwise=lambda reason, detail: [Probed(row.key, reason=reason, detail=detail)],
        )
        return found

    def _cut(self, row: Listed, probed: Probed) -> Cut:
        (found,) = self._guarded(
            row.key,
            lambda: [cut(row, probed, scenes=self._config.scenes)],
            otherwise=lambda reason, detail: [Cut(row.key, reason=reason, detail=detail)],
        )
        return found

    def _clips(self) -> list[Clip]:
        cuts = {one.key: one for one in self._read("scenes", kind=Cut)}
        return [
            clip
            for row, probed in self._probed()
            if (found := cuts.get(row.key)) is not None and found.reason is None
            for clip in clips_of(
                row, probed, found, min_s=self._config.min_s, max_s=self._config.max_s
            )
        ]

    def _scored(self) -> list[Scored]:
        return [
            one
            for row, probed, clips in self._whole_clips()
            for one in self._guarded(
                row.key,
                lambda row=row, probed=probed, clips=clips: score(row, probed, clips),
                otherwise=lambda reason, detail, clips=clips: [
                    Scored(clip.key, video=clip.video, reason=reason, detail=detail)
                    for clip in clips
                ],
            )
        ]

    def _seen(self) -> list[Seen]:
        assert self._task.model is not None
        model = self._config.scorers[self._task.model]
        return [
            one
            for row, probed, clips in self._whole_clips()
            for one in self._guarded(
                row.key,
                lambda row=row, probed=probed, clips=clips: see_raw(
                    row, probed, clips, model=model
                ),
                otherwise=lambda reason, detail, clips=clips: [
                    Seen(clip.key, video=clip.video, reason=reason, detail=f"{model.id}: {detail}")
                    for clip in clips
                ],
            )
        ]

    def _encoded(self) -> list[Encoded]:
        writer = BlobWriter(self._store, self._task.output, is_kept=self._task.only is None)
        by_video: dict[str, list[Chosen]] = {}
        for clip in self._read("choose", kind=Chosen):
            if clip.reason is None:
                by_video.setdefault(clip.video, []).append(clip)
        rows = [
            one
            for row in self._listed()
            if (clips := by_video.get(row.key))
            for one in self._guarded(
                row.key,
                lambda row=row, clips=clips: self._encode(row, clips, writer=writer),
                otherwise=lambda reason, detail, clips=clips: [
                    Encoded(clip.key, video=clip.video, reason=reason, detail=detail)
                    for clip in clips
                ],
            )
        ]
        writer.close()
        return rows

    def _encode(self, row: Listed, clips: Sequence[Chosen], *, writer: BlobWriter) -> list[Encoded]:
        config = self._config
        return [
            writer.add(clip, ext=ext, data=data)
            for clip, ext, data in encoded(
                row, clips, buckets=config.buckets, encoding=config.encoding
            )
        ]

    def _captioned(self) -> list[Seen]:
        assert self._task.model is not None
        model = self._config.captioners[self._task.model]
        said = {row.key: found.captions for row, found in self._probed()}
        return [
            one
            for clip in self._read("encode", kind=Encoded)
            if clip.reason is None and self._is_wanted(clip.video)
            for one in self._guarded(
                clip.video,
                lambda clip=clip: [
                    see_stored(
                        clip.key,
                        video=clip.video,
                        captions=said[clip.video],
                        data=self._blob(clip),
                        ext=clip.ext,
                        model=model,
                    )
                ],
                otherwise=lambda reason, detail, clip=clip: [
                    Seen(clip.key, video=clip.video, reason=reason, detail=f"{model.id}: {detail}")
                ],
            )
        ]

    def _packed(self) -> list[Packed]:
        assert self._task.owner is not None
        claim = Claim(self._store, self._task.owner)
        rows = pack(self._store, self._read("plan", kind=Planned), claim=claim)
        claim.check()  # these rows say that the shard is there, and another start may replace it
        return rows

    def _blob(self, clip: Encoded) -> bytes:
        return read_blob(
            self._store, clip.file, offset=clip.offset, size=clip.size, xxh64=clip.xxh64
        )

    def _listed(self) -> list[Listed]:
        return [row for row in self._read("list", kind=Listed) if self._is_wanted(row.key)]

    def _probed(self) -> list[tuple[Listed, Probed]]:
        found = {one.key: one for one in self._read("probe", kind=Probed)}
        return [(row, found[row.key]) for row in self._listed() if found[row.key].reason is None]

    def _whole_clips(self) -> list[tuple[Listed, Probed, list[Clip]]]:
        """Videos with clips that are not rejected yet."""
        by_video: dict[str, list[Clip]] = {}
        for clip in self._read("clips", kind=Clip):
            if clip.reason is None:
                by_video.setdefault(clip.video, []).append(clip)
        return [
            (row, probed, by_video[row.key])
            for row, probed in self._probed()
            if row.key in by_video
        ]

    def _is_wanted(self, video: str) -> bool:
        return self._task.only in (None, video)

    def _read(self, step: str, *, kind: type[T]) -> list[T]:
        return read_rows(self._store, self._task.inputs[step], kind=kind)

    def _write(self, rows: Sequence[T], *, kind: type[T]) -> None:
        if self._task.only is None:
            write_rows(self._store, self._task.output, rows, kind=kind)

    def _guarded(
        self,
        video: str,
        call: Callable[[], list[T]],
        *,
        otherwise: Callable[[str, str], list[T]],
    ) -> list[T]:
        """Rows of a video, or such that say why there are none: it must not cost the others."""
        if video in self._task.crashed:
            return otherwise(CRASHED, "the process that worked at it died, and once more alone")
        try:
            return call()
        except BrokenError as error:
            return otherwise(error.reason, error.detail)
        except NotFoundError:
            return otherwise(MISSING, "gone since it was listed")
        except RushesError:
            raise
        except Exception as error:  # the edge of a stranger's file
            return otherwise(FAILED, in_a_line(error))
