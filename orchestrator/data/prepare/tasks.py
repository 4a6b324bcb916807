"""A unit of one step's work, as JSON that any process can take."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

STEPS = "steps"


@dataclass(frozen=True)
class Task:
    """What one worker does at a time: some videos, or one shard.

    Attributes:
        step: name of the step; plug-ins have one each.
        target: URI of the place that everything is written to.
        unit: name of the unit.
        inputs: files that are read, by the step that wrote them.
        output: file that is written last; its name holds the digest of all that it depends on.
        videos: keys of the videos in it.
        config: of the whole preparation.
        model: number of the plug-in among those of its kind.
        cpus, gpus: that it needs.
        owner: token of the claim to the target (``claim.py``), to be looked at before a file is
            written that another start may write otherwise.
        crashed: videos that ended a worker; they are not touched.
        only: tries this video and writes nothing.
    """

    step: str
    target: str
    unit: str
    inputs: dict[str, str]
    output: str
    videos: tuple[str, ...]
    config: dict[str, Any]
    model: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    owner: str | None = None
    crashed: tuple[str, ...] = field(default=())
    only: str | None = None

    def to_json(self) -> str:
        """As another process takes it."""
        return json.dumps(asdict(self))

    @property
    def where(self) -> str:
        """What is said to be done when it fails."""
        return f"{self.step} {self.unit}"

    @classmethod
    def from_json(cls, text: str) -> "Task":
        """From another process."""
        tree = json.loads(text)
        lists = {name: tuple(tree[name]) for name in ("videos", "crashed")}
        return cls(**{**tree, **lists})

    def trying(self, video: str) -> "Task":
        """The same for one video, without a result."""
        return replace(self, only=video)

    def without(self, videos: tuple[str, ...]) -> "Task":
        """The same; these videos get a row that says that they ended a worker."""
        return replace(self, crashed=videos)


Chain = tuple[Task, ...]
"""Tasks of a unit that one process does, each of which may read what those before it wrote."""


def digest_of(*parts: object) -> str:
    """A short name of what JSON says of the parts."""
    text = json.dumps(parts, sort_keys=True, default=asdict)  # pyright: ignore[reportArgumentType]
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def output_of(step: str, unit: str, *, digest: str) -> str:
    """The file of a unit."""
    return f"{STEPS}/{step}/{unit}-{digest}.parquet"
