"""Whose a target is: ``prepare.json`` says that preparation writes there, and which start of it."""

import json
import os
import platform
import time
import uuid
from collections.abc import Callable
from typing import Any, cast

from orchestrator.data.head import HEAD, Head, read_head
from orchestrator.data.prepare.fates import ROWS
from orchestrator.data.prepare.tasks import STEPS
from orchestrator.data.table import TABLE
from orchestrator.errors import FencedError, UserError
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.json_files import read_json
from orchestrator.storage.store import Store

OWNER = "prepare.json"
ORIGIN = "prepared"  # in the origin of an index that was made here
PREFIX = "shard-"

_EVERY_S = 5.0


class Claim:
    """A start's claim to a target; a later start takes it over.

    As with a run's stage, one request lies between a look and what is written or deleted after it:
    a process that is suspended right there still does that. Whatever two starts may both write has
    a name that stands for its bytes, but for shards, ``rows.parquet`` and the index; the index
    knows the hash of every shard.

    Args:
        store: the target.
        token: of the start that holds it.
        clock: seconds.
    """

    def __init__(
        self, store: Store, token: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.token = token
        self._store = store
        self._clock = clock
        self._next_s = clock() + _EVERY_S

    def check(self) -> None:
        """Raises FencedError if another start has taken the target."""
        self._next_s = self._clock() + _EVERY_S
        owner = _owner(self._store)
        # None: the target was deleted below us, and nobody else has taken it.
        if owner is not None and owner["token"] != self.token:
            raise FencedError(
                f"{self._store.uri}/{OWNER}: taken over by process {owner['pid']} on "
                f"{owner['host']}; this one writes no more"
            )

    def look(self) -> None:
        """As ``check``, but only now and then, however often this is called."""
        if self._clock() >= self._next_s:
            self.check()


def take(store: Store) -> Claim:
    """Becomes the owner of a target, before anything else is written or deleted there.

    Raises:
        UserError: if it holds what others wrote under names that are ours.
    """
    claim = Claim(store, uuid.uuid4().hex)
    owner = {
        "token": claim.token,
        "host": platform.node(),
        "pid": os.getpid(),
        "time": time.time(),
    }
    data = json.dumps(owner).encode()
    if _owner(store) is None:
        _refuse_others(store)
        if store.put_new(OWNER, data):
            return claim
    store.put(OWNER, data)
    return claim


def own_head(store: Store) -> Head | None:
    """The head of what was prepared there; None if nothing is published.

    Raises:
        UserError: if clips are published that were not prepared.
    """
    if not store.exists(HEAD):
        return None
    head = read_head(store)
    if ORIGIN not in head.origin:
        raise UserError(
            f"{store.uri}/{HEAD}: clips that `rushes prepare` did not write, wanted an empty TARGET"
        )
    return head


def _owner(store: Store) -> dict[str, Any] | None:
    try:
        owner: object = read_json(store, OWNER)
    except NotFoundError:
        return None
    if not isinstance(owner, dict) or not {"token", "host", "pid"} <= owner.keys():
        raise _not_ours(store, OWNER)
    return cast(dict[str, Any], owner)


def _refuse_others(store: Store) -> None:
    if own_head(store) is not None:
        return
    there = [name for name in (ROWS, TABLE) if store.exists(name)]
    for name in [*there, *store.list(PREFIX), *store.list(f"{STEPS}/")]:
        raise _not_ours(store, name)


def _not_ours(store: Store, name: str) -> UserError:
    return UserError(
        f"{store.uri}/{name}: `rushes prepare` did not write it and would replace or delete it, "
        "wanted an empty TARGET"
    )
