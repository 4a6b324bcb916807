"""What an encode stage has to do: which shards are there already, and where the others go."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.data.index import Index
from orchestrator.data.shards import written_among
from orchestrator.errors import UserError
from orchestrator.recipe.data import TRAIN
from orchestrator.recipe.digest import canonical
from orchestrator.storage.store import Store, open_store
from orchestrator.train.encode_key import encode_key, encoders_of, made_of
from orchestrator.train.job import StageJob
from orchestrator.train.latents import encoded_uri, latents_uri

MADE_OF = "made-of.json"  # beside the shards: what their key stands for

Unit = dict[str, str]  # as JSON


@dataclass(frozen=True)
class PartPlan:
    """One source in one start of an encode stage.

    Attributes:
        name: in the mix; empty for one that is alone.
        key: of the shards' content.
        target: URI of the folder with the shards.
        shards: names of all shards of the clips, in order.
        left: those that are not encoded yet.
        notes: lines for the user.
    """

    name: str
    key: str
    target: str
    shards: tuple[str, ...]
    left: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncodePlan:
    """One start of an encode stage: the source, or those that are mixed, each for itself."""

    parts: tuple[PartPlan, ...]

    @property
    def shards(self) -> int:
        """How many there are of all sources."""
        return sum(len(part.shards) for part in self.parts)

    @property
    def found(self) -> int:
        """How many shards were encoded before, by this run or another."""
        return self.shards - len(self.units)

    @property
    def units(self) -> list[Unit]:
        """The work: a shard each."""
        return [
            {"part": part.name, "shard": shard, "target": part.target}
            for part in self.parts
            for shard in part.left
        ]

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user, in a mix with the name of the source."""
        return tuple(
            f"{part.name}: {note}" if part.name else note
            for part in self.parts
            for note in part.notes
        )


def plan_encode(job: StageJob) -> EncodePlan:
    """Looks for what is there; once for every start of a stage, in one process.

    Shards go where other runs find them, unless that is refused; then, and where a run began to
    keep them itself, they are in the stage's own folder.

    Raises:
        UserError: if clips or an encoder are not there.
        UnavailableError: if a store cannot be reached.
    """
    encoders = encoders_of(job)
    return EncodePlan(
        parts=tuple(
            _plan_part(job, name, clips=Index.open(source.uri), encoders=encoders)
            for name, source in job.recipe.data.parts(TRAIN).items()
        )
    )


def _plan_part(job: StageJob, name: str, *, clips: Index, encoders: Mapping[str, Any]) -> PartPlan:
    made = made_of(encoders, clips=clips)
    key = encode_key(made)
    shared = open_store(encoded_uri(job.run, key=key))
    own = open_store(latents_uri(job.run, stage=job.stage, part=name))
    notes: list[str] = []
    target, left = _place(clips, shared=shared, own=own, made=canonical(made), notes=notes)
    found = len(clips.shards) - len(left)
    if found:
        notes.append(f"{found} of {len(clips.shards)} shards were encoded before")
    return PartPlan(
        name=name,
        key=key,
        target=target.uri,
        shards=clips.shards,
        left=left,
        notes=tuple(notes),
    )


def _place(
    clips: Index, *, shared: Store, own: Store, made: str, notes: list[str]
) -> tuple[Store, tuple[str, ...]]:
    """Where the shards go, and which of them are not there yet."""
    try:
        left = _left(shared, clips)
        if not left:
            return shared, left
        if not _holds_shards(own):
            shared.put(MADE_OF, made.encode())  # refused as a shard would be
            return shared, left
    except UserError as refused:
        notes.append(f"{refused}; so these shards are kept in the run's own folder")
    return own, _left(own, clips)


def _left(store: Store, clips: Index) -> tuple[str, ...]:
    found = set(written_among(store, clips.shards))
    return tuple(shard for shard in clips.shards if shard not in found)


def _holds_shards(own: Store) -> bool:
    return any(key.endswith(".tar") for key in own.list(""))
