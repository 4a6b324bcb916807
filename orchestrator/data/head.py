"""``index.json``: what makes a source exist, written last."""

from collections.abc import Iterable, Sequence
from typing import Any, Self, cast

from pydantic import NonNegativeInt, ValidationError, field_validator, model_validator

from models.config import Strict
from orchestrator.errors import UserError
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.store import Store, open_store
from orchestrator.storage.uri import found_from

HEAD = "index.json"
VERSION = 2
WINDOWS = 3  # version 2 whose clips are not all read whole: an older reader would do just that
_VERSIONS = (1, VERSION, WINDOWS)
IF_LOST = "if_lost"  # in an origin: what brings lost shards back


class Shard(Strict):
    """A tar file by its name below the source's folder.

    What it weighs in bytes and its xxh64 are None in an index of version 1.
    """

    name: str
    bytes: NonNegativeInt | None = None
    xxh64: str | None = None


class Head(Strict):
    """Shards and a digest of their samples.

    ``base`` is the folder with the shards where that is another one than the index's: a URI, or the
    way there from the index's folder (``../x``).
    """

    version: int
    digest: str
    samples: NonNegativeInt
    shards: tuple[Shard, ...]
    base: str | None = None
    origin: dict[str, Any]

    @field_validator("shards", mode="before")
    @classmethod
    def _of_version_1(cls, value: object) -> object:
        """Version 1 has names alone."""
        if not isinstance(value, list):
            return value
        shards = cast(Iterable[object], value)
        return tuple(Shard(name=one) if isinstance(one, str) else one for one in shards)

    @model_validator(mode="after")
    def _has_hashes(self) -> Self:
        unhashed = [one.name for one in self.shards if one.bytes is None or one.xxh64 is None]
        if self.version != 1 and unhashed:
            raise ValueError(f"{unhashed[0]} without bytes and xxh64")
        return self


def shards_of(head: Head, *, store: Store) -> Store:
    """Where the shards lie of an index that lies in ``store``."""
    return store if head.base is None else open_store(found_from(head.base, folder=store.uri))


def missing_shards(head: Head, *, shards: Store) -> list[str]:
    """Names of the shards that are not where they should be; lists that folder once."""
    return sorted({shard.name for shard in head.shards} - set(shards.list("")))


def told_missing(head: Head, missing: Sequence[str], *, shards: Store) -> str:
    """The line for the user about missing shards, with what brings them back if that is known."""
    count = f" ({len(missing)} missing)" if len(missing) > 1 else ""
    remedy = f"; {head.origin[IF_LOST]}" if IF_LOST in head.origin else ""
    return (
        f"{shards.uri}/{missing[0]}: the shard is missing, wanted all {len(head.shards)} shards of "
        f"the index{count}{remedy}"
    )


def read_head(store: Store) -> Head:
    """The head of the source at a folder.

    Raises:
        UserError: if there is none, or it is damaged or of another version.
    """
    where = f"{store.uri}/{HEAD}"
    try:
        raw = store.get(HEAD)
    except NotFoundError:
        raise UserError(
            f"{where}: not there, wanted a folder of indexed shards; for tar files of WebDataset "
            f"run: rushes data index {store.uri}"
        ) from None
    try:
        head = Head.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise UserError(f"{where}: {field} is damaged ({first['msg']})") from None
    if head.version not in _VERSIONS:
        raise UserError(f"{where}: version={head.version}, wanted 1 to 3")
    return head
