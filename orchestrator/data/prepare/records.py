"""Rows that steps write: one per video or one per clip.

``reason`` is one word, None while all is well; ``detail`` says more. A clip's key is that of its
video, a dash and its number. Times are seconds from the video's first frame.
"""

from dataclasses import dataclass, field

VIDEO, IMAGE = "video", "image"

MISSING, NAME, CAPTION = "missing", "name", "caption"  # reasons of videos
REFUSED = "refused"  # by the store
EMPTY, BROKEN, NO_VIDEO = "empty", "broken", "no-video"
SHORT, DOUBLE, NO_BUCKET = "short", "double", "no-bucket"  # of clips; also every score's name
CRASHED, FAILED = "crashed", "failed"  # of both


@dataclass(frozen=True)
class Row:
    """What every row has."""

    key: str
    reason: str | None = field(default=None, kw_only=True)
    detail: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Listed(Row):
    """A video or an image as it lies below ``root``; ``txt`` and ``json`` are files beside it."""

    root: str
    name: str
    kind: str
    size: int
    tag: str
    captions: tuple[str, ...] = ()  # of a table
    txt: str | None = None
    json: str | None = None
    beside: str = ""  # tags of these two


@dataclass(frozen=True)
class Probed(Row):
    """A video that was decoded from its first to its last frame; sides are as it is shown."""

    frames: int = 0
    fps: float = 0.0
    duration_s: float = 0.0
    height: int = 0
    width: int = 0
    captions: tuple[str, ...] = ()
    labels: str = "{}"  # JSON


@dataclass(frozen=True)
class Cut(Row):
    """Where a video's scenes begin."""

    starts_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class Clip(Row):
    """A part of a scene; of an image, all of it, with no length."""

    video: str
    scene: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Scored(Row):
    """Scores by name, and the perceptual hashes of some frames, 64 bits each in hex."""

    video: str
    scores: dict[str, float] = field(default_factory=dict)
    hashes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen(Row):
    """What a plug-in says of a clip."""

    video: str
    scores: dict[str, float] = field(default_factory=dict)
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen(Row):
    """Whether a clip is kept, and the number of the bucket that it goes to."""

    video: str
    start_s: float
    end_s: float
    bucket: int | None = None
    frames: int = 0  # to be stored


@dataclass(frozen=True)
class Encoded(Row):
    """Where the bytes of a clip are, as it will lie in a shard."""

    video: str
    file: str = ""
    offset: int = 0
    size: int = 0
    xxh64: str = ""
    ext: str = ""


@dataclass(frozen=True)
class Packed(Row):
    """The shard that a clip is in."""

    shard: str
