"""What the JSON files of a checkpoint say."""

import json
from pathlib import Path
from typing import Any, Self

import xxhash
from pydantic import Field, NonNegativeInt, PositiveInt

from models.config import Strict
from orchestrator.errors import UserError

COMMIT = "COMMIT"
INDEX = "index.json"
DAMAGED = "DAMAGED"  # left in the place of the COMMIT of a checkpoint that failed its check
PASSED_OVER = "PASSED_OVER"  # the same, of one from which training went further back
DATA_SUFFIX = ".safetensors"
VERSION = 2
_PIECE_BYTES = 4 * 2**20
_SEAL = b',"xxh64":"'


class Range(Strict):
    """A slice of one flattened parameter in one file."""

    file: str
    key: str  # the file's tensors are KEY/fp32, KEY/exp_avg, KEY/exp_avg_sq and KEY/ema
    start: NonNegativeInt
    numel: PositiveInt


class Parameter(Strict):
    """A whole parameter: its shape and the slices that make it up, by start."""

    shape: tuple[int, ...]
    ranges: tuple[Range, ...]


class File(Strict):
    """What a file must look like to be trusted."""

    size: NonNegativeInt
    xxh64: str


class Network(Strict):
    """The state of one engine that is not sharded."""

    applied_steps: NonNegativeInt


class Index(Strict):
    """``index.json``: where every parameter lies, and everything else that makes the run."""

    version: PositiveInt
    step: NonNegativeInt
    world_size: PositiveInt
    networks: dict[str, Network]
    parameters: dict[str, Parameter]  # by NETWORK/NAME
    files: dict[str, File]
    extra: dict[str, Any]


class Commit(Strict):
    """``COMMIT``: every file of the checkpoint, ``index.json`` too.

    It is the one file that no other names, so it ends with a hash of itself: what is read with
    ``parse`` is what was written with ``to_bytes``, to the bit.
    """

    version: PositiveInt
    step: NonNegativeInt
    files: dict[str, File]
    metrics: dict[str, float] = Field(default_factory=dict[str, float])  # last logged ones

    def to_bytes(self) -> bytes:
        """JSON, with one more field at its end: the hash of all that is before it."""
        body = self.model_dump_json().encode().removesuffix(b"}")
        return body + _sealed(body)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Reads it.

        Raises:
            ValueError: if it was cut short or changed.
            UserError: if it is whole and of another version.
        """
        body, _, _ = raw.rpartition(_SEAL)
        if raw != body + _sealed(body):
            raise ValueError("it does not have the hash that it ends with")
        version = json.loads(raw)["version"]
        if version != VERSION:
            raise UserError(
                f"checkpoint format {version}, wanted {VERSION}; "
                "go on with the Rushes that wrote it, or with another --run"
            )
        return cls.model_validate_json(body + b"}")


def _sealed(body: bytes) -> bytes:
    return _SEAL + xxhash.xxh64(body).hexdigest().encode() + b'"}'


def describe(raw: bytes | memoryview) -> File:
    """Size and hash of a file's bytes."""
    return File(size=len(raw), xxh64=xxhash.xxh64(raw).hexdigest())


def describe_file(path: Path) -> File:
    """The same of a file on disk, a piece at a time."""
    found, piece = xxhash.xxh64(), memoryview(bytearray(_PIECE_BYTES))
    size = 0
    with path.open("rb", buffering=0) as file:
        while length := file.readinto(piece):
            found.update(piece[:length])
            size += length
    return File(size=size, xxh64=found.hexdigest())


def folder(prefix: str, *, step: int) -> str:
    """The key of a step's folder; names sort by step."""
    return f"{prefix}/step-{step:08d}"


def data_file(*, rank: int, world_size: int, writer: str, part: int) -> str:
    """The name of one of a rank's files; most ranks have only the first.

    Each process writes names of its own: one that was taken over and does not know it yet cannot
    write over what its successor is about to commit.
    """
    name = f"rank-{rank:04d}-of-{world_size:04d}-{writer}"
    return f"{name}{DATA_SUFFIX}" if part == 0 else f"{name}.{part:04d}{DATA_SUFFIX}"


def rank_of(file: str) -> int:
    """The rank that wrote a data file."""
    return int(file.removeprefix("rank-")[:4])
