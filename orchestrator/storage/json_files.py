"""JSON in a store: read with care, for a file may have been damaged or edited."""

import json
from typing import Any

from orchestrator.errors import UserError
from orchestrator.storage.store import Store


def read_json(store: Store, key: str) -> Any:
    """A JSON file.

    Raises:
        NotFoundError: if there is none.
        UserError: if it is not JSON.
    """
    try:
        return json.loads(store.get(key))
    except ValueError:  # JSON, or UTF-8
        raise UserError(f"{store.uri}/{key}: not JSON, wanted the file as it was written") from None


def read_lines(raw: bytes) -> tuple[list[dict[str, Any]], int]:
    """Objects of JSON lines that say their step, and how many other lines are left out."""
    rows: list[dict[str, Any]] = []
    lines = raw.decode(errors="replace").splitlines()
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows, len(lines) - len(rows)
