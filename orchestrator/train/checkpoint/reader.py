"""One checkpoint: its index, its checked files, and slices out of them."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor

from orchestrator.errors import UnavailableError, UserError
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.local import writing
from orchestrator.storage.store import Store
from orchestrator.train.checkpoint.format import (
    COMMIT,
    INDEX,
    Commit,
    File,
    Index,
    describe,
    describe_file,
    rank_of,
)
from orchestrator.train.engine.base import StateKey


class DamagedError(Exception):
    """A checkpoint's bytes are not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint whose ``index.json`` is as it was written.

    Attributes:
        where: its URI, for messages.
        index: what it holds.
        scratch: folder for the files that this rank has fetched from elsewhere.
    """

    store: Store
    target: str
    where: str
    index: Index
    scratch: Path
    _checked: dict[str, Path] = field(default_factory=dict[str, Path])
    _open: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, store: Store, target: str, *, step: int, scratch: Path) -> Self:
        """Reads COMMIT and index.json.

        Raises:
            DamagedError: if either is missing, cut short or changed.
            UserError: if the checkpoint is of another version.
        """
        raw_commit = _get(store, f"{target}/{COMMIT}")
        try:
            commit = Commit.parse(raw_commit)
        except ValueError as error:
            raise DamagedError(f"{COMMIT} is cut short or changed") from error
        except UserError as error:
            raise UserError(f"{store.uri}/{target}: {error}") from None
        if commit.step != step or INDEX not in commit.files:
            raise DamagedError(f"{COMMIT} is of step {commit.step}")
        raw_index = _get(store, f"{target}/{INDEX}")
        _compare(INDEX, describe(raw_index), wanted=commit.files[INDEX])
        try:
            index = Index.model_validate_json(raw_index)
        except ValidationError as error:
            raise DamagedError(f"{INDEX} is not valid ({error.error_count()} errors)") from error
        named = {name: file for name, file in commit.files.items() if name != INDEX}
        if named != index.files:
            raise DamagedError(f"{COMMIT} and {INDEX} name different files")
        return cls(
            store=store,
            target=target,
            where=f"{store.uri}/{target}",
            index=index,
            scratch=scratch,
        )

    def verify(self, *, rank: int, world_size: int) -> None:
        """Fetches and checks this rank's share of the files; over all ranks it is all of them.

        At the world size of the save the share is the rank's own files.

        Raises:
            DamagedError: if a file is missing, cut short or changed.
        """
        for name in self.index.files:
            if rank_of(name) % world_size == rank:
                self._fetch(name)

    def _fetch(self, name: str) -> None:
        key, wanted = f"{self.target}/{name}", self.index.files[name]
        path = self.store.local(key)
        if path is not None:
            _compare(name, _described(path), wanted=wanted)
        else:
            raw = _get(self.store, key)
            _compare(name, describe(raw), wanted=wanted)
            with writing(self.scratch / name) as path:
                path.write_bytes(raw)
        self._checked[name] = path

    def tensors(self, name: str) -> Any:
        """A data file, opened; fetched and checked first if it was not in this rank's share.

        Raises:
            UnavailableError: if it has changed since another rank checked it.
        """
        if name not in self._open:
            if name not in self._checked:
                try:
                    self._fetch(name)
                except DamagedError as error:
                    raise UnavailableError(
                        f"{self.where} changed while loading: {error}"
                    ) from error
            self._open[name] = safe_open(self._checked[name], framework="pt", device="cpu")
        return self._open[name]

    def reader(self, network: str) -> "RangeReader":
        """A network's state."""
        return RangeReader(checkpoint=self, network=network)


@dataclass(frozen=True)
class RangeReader:
    """Slices of one network's state, put together from the slices that were saved."""

    checkpoint: Checkpoint
    network: str

    def read(self, key: StateKey, *, name: str, start: int, numel: int) -> Tensor:
        """See ``StateReader``."""
        end = start + numel
        result = torch.empty(numel, dtype=torch.float32)
        parameter = self.checkpoint.index.parameters[f"{self.network}/{name}"]
        assert end <= math.prod(parameter.shape)
        for saved in parameter.ranges:
            first, last = max(start, saved.start), min(end, saved.start + saved.numel)
            if first < last:
                tensors = self.checkpoint.tensors(saved.file)
                part = tensors.get_slice(f"{saved.key}/{key}")
                result[first - start : last - start] = part[
                    first - saved.start : last - saved.start
                ]
        return result


def _get(store: Store, key: str) -> bytes:
    try:
        return store.get(key)
    except NotFoundError as error:
        raise DamagedError(f"{key.rpartition('/')[2]} is missing") from error


def _described(path: Path) -> File:
    try:
        return describe_file(path)
    except FileNotFoundError as error:
        raise DamagedError(f"{path.name} is missing") from error
    except OSError as error:
        raise UnavailableError(f"read {path}: {error.strerror}") from error


def _compare(name: str, seen: File, *, wanted: File) -> None:
    if seen.size != wanted.size:
        raise DamagedError(f"{name} has {seen.size} bytes, wanted {wanted.size}")
    if seen.xxh64 != wanted.xxh64:
        raise DamagedError(f"{name} has xxh64 {seen.xxh64}, wanted {wanted.xxh64}")
