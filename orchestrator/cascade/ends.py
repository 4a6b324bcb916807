"""How a start of a run ended: ends/NNNN.json, beside the attempts/NNNN.json that it began with.

A start whose driver was killed has none; nothing but a reader who watches the run relies on it.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import (
    RushesError,
    StoppedError,
    UnavailableError,
    UserError,
    error_with_code,
    in_a_line,
)
from orchestrator.storage.attempts import newest_attempt
from orchestrator.storage.json_files import read_json
from orchestrator.storage.store import Store

ENDS = "ends/"


@dataclass
class End:
    """What a start ends with; None: all stages are done."""

    error: RushesError | None = None


@contextmanager
def noting_end(store: Store, *, attempt: int) -> Iterator[End]:
    """Puts down how a start ends: with what the body raises, or says.

    Not where another start has the run, whose folder this one must not touch any more; a store that
    is away is not waited for beyond its own limit.
    """
    end = End()
    try:
        yield end
    except RushesError as error:
        end.error = error
        raise
    except KeyboardInterrupt:
        end.error = StoppedError("stopped")
        raise
    except Exception as unknown:  # told further out; who watches should not wait for ever
        end.error = RushesError(f"defect: {in_a_line(unknown)}")
        raise
    finally:
        code = 0 if end.error is None else end.error.exit_code
        why = "" if end.error is None else str(end.error)
        tree = {"exit_code": code, "why": why, "time": time.time()}
        with suppress(UnavailableError, UserError):
            if newest_attempt(store) == attempt:
                store.put(_key(attempt), json.dumps(tree).encode())


def read_end(store: Store, *, attempt: int) -> dict[str, Any] | None:
    """``exit_code``, ``why`` and ``time`` (unix seconds) of a start's end.

    None if it has not ended, or could not say so.
    """
    if not attempt or not store.exists(_key(attempt)):
        return None
    return read_json(store, _key(attempt))


def raise_end(end: dict[str, Any], *, attempt: int) -> None:
    """Raises what a start has ended with; nothing if all its stages were done."""
    if end["exit_code"]:
        raise error_with_code(end["exit_code"], f"start {attempt} ended: {end['why']}")


def _key(attempt: int) -> str:
    return f"{ENDS}{attempt:04d}.json"
