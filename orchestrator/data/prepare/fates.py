"""``rows.parquet``: what became of every video and every clip."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from orchestrator.data.prepare.files import parquet_bytes, table_of
from orchestrator.errors import UserError
from orchestrator.storage.store import Store

ROWS = "rows.parquet"
CLIP = "clip"  # beside the kinds of files, video and image

_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("key", pa.string()),
        ("ok", pa.bool_()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("step", pa.string()),  # that rejected it
        ("video", pa.string()),
        ("uri", pa.string()),
        ("scene", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("fps", pa.float64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("scores", pa.map_(pa.string(), pa.float64())),
        ("captions", pa.list_(pa.string())),
        ("bucket", pa.list_(pa.int32())),  # frames, height, width
        ("shard", pa.string()),
    ]
)


@dataclass(frozen=True)
class Fate:
    """A video, an image or a clip, and what became of it; ``reason`` is None if it is kept.

    A video is kept if it decodes, whatever became of its clips. Rate and sides are the video's.
    """

    kind: str
    key: str
    video: str
    uri: str
    reason: str | None
    detail: str
    step: str | None
    scene: int | None = None
    start_s: float | None = None
    end_s: float | None = None
    fps: float | None = None
    height: int | None = None
    width: int | None = None
    scores: dict[str, float] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    bucket: tuple[int, int, int] | None = None
    shard: str | None = None


@dataclass(frozen=True)
class Report:
    """Sums over all rows.

    Attributes:
        videos: files that were listed, images too.
        clips: that were cut from them.
        kept: clips in shards.
        by_reason: files and clips that were rejected, by what they are and the reason.
        by_bucket: kept clips by frames, height and width.
    """

    videos: int
    clips: int
    kept: int
    by_reason: dict[tuple[str, str], int]
    by_bucket: dict[tuple[int, int, int], int]


def write_fates(store: Store, fates: Iterable[Fate]) -> None:
    """Writes the file, in the order of the fates."""
    rows = [
        asdict(one)
        | {"ok": one.reason is None, "scores": sorted(one.scores.items())}
        | {"step": None if one.reason is None else one.step}
        for one in fates
    ]
    store.put(ROWS, parquet_bytes(pa.Table.from_pylist(rows, schema=_SCHEMA)))


def read_report(store: Store) -> Report:
    """Sums of the file.

    Raises:
        NotFoundError: if there is none.
        UserError: if it is damaged.
    """
    try:
        table = table_of(store.get(ROWS), schema=_SCHEMA)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{store.uri}/{ROWS}: damaged ({str(error).splitlines()[0]}), wanted the file as it "
            "was written: delete index.json, and it is made again"
        ) from None
    return _report(table.select(["kind", "reason", "bucket"]).to_pylist())


def _report(rows: Sequence[dict[str, Any]]) -> Report:
    clips = [row for row in rows if row["kind"] == CLIP]
    kept = [tuple(row["bucket"]) for row in clips if row["reason"] is None]
    what = {True: CLIP, False: "video"}
    return Report(
        videos=len(rows) - len(clips),
        clips=len(clips),
        kept=len(kept),
        by_reason=dict(
            Counter(
                (what[row["kind"] == CLIP], row["reason"])
                for row in rows
                if row["reason"] is not None
            )
        ),
        by_bucket=dict(Counter(kept)),
    )
