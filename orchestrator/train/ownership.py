"""Who may write a stage: a gang of the run's newest start, and the newest gang of that."""

import json
import os
import platform
import time
import uuid
from typing import Any

from orchestrator.errors import FencedError
from orchestrator.storage.attempts import newest_attempt
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.json_files import read_json
from orchestrator.storage.store import Store

OWNER = "owner.json"


class Ownership:
    """This gang's claim to a stage, asserted in storage; rank 0 holds it.

    A process that was cut off, suspended or given up may wake when another has taken over. It
    learns so here, before it writes anything that a reader trusts. Data files have names of their
    own, and a COMMIT never replaces one that is there; but between the look and the write of an
    index, of metrics or of finished weights lies one request, and a process suspended right there
    writes over its successor's. An index that was written over no longer has the hash in COMMIT:
    readers go back to the checkpoint before.

    Args:
        store: where the run is.
        folder: key of the stage's folder.
        attempt: number of the start that this gang belongs to.
    """

    def __init__(self, store: Store, folder: str, *, attempt: int) -> None:
        self._store = store
        self._key = f"{folder}/{OWNER}"
        self._attempt = attempt
        self._token = uuid.uuid4().hex
        self.gangs = 0  # that have taken the stage so far, with this one

    def take(self) -> None:
        """Becomes the stage's owner; whoever was it before can commit no more.

        Raises:
            FencedError: if the run was started again since this start.
        """
        self._check_attempt()
        self.gangs = self._gangs_before() + 1
        owner = {
            "token": self._token,
            "attempt": self._attempt,
            "host": platform.node(),
            "pid": os.getpid(),
            "time": time.time(),
            "gangs": self.gangs,
        }
        self._store.put(self._key, json.dumps(owner).encode())

    def check(self) -> None:
        """Raises FencedError unless this gang is still the owner."""
        self._check_attempt()
        try:
            owner: dict[str, Any] = read_json(self._store, self._key)
        except NotFoundError:  # the folder was deleted below us: nobody else has taken it
            return
        if owner["token"] != self._token:
            raise FencedError(
                f"{self._store.uri}/{self._key}: taken over by process {owner['pid']} on "
                f"{owner['host']} (start {owner['attempt']} of the run); this one writes no more"
            )

    def _gangs_before(self) -> int:
        try:
            owner: dict[str, Any] = read_json(self._store, self._key)
        except NotFoundError:
            return 0
        return owner["gangs"]

    def _check_attempt(self) -> None:
        newest = newest_attempt(self._store)
        if newest > self._attempt:
            raise FencedError(
                f"{self._store.uri}: start {newest} of the run goes on with it; start "
                f"{self._attempt} writes no more"
            )
