"""JSON that was damaged is named or left out, never taken for a defect of ours."""

from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.json_files import read_json, read_lines
from orchestrator.storage.store import open_store


@pytest.mark.parametrize("raw", [b"", b'{"step": 1', b"\xff\xfe{}"])
def test_a_file_that_is_not_json_is_named(tmp_path: Path, raw: bytes) -> None:
    store = open_store(str(tmp_path))
    store.put("a/owner.json", raw)
    with pytest.raises(UserError, match=rf"^{tmp_path}/a/owner.json: not JSON, wanted"):
        read_json(store, "a/owner.json")
    store.put("a/owner.json", b'{"gangs": 3}')
    assert read_json(store, "a/owner.json") == {"gangs": 3}
    with pytest.raises(NotFoundError):
        read_json(store, "b")


def test_rows_that_are_damaged_are_left_out_and_counted() -> None:
    raw = b'{"step": 1, "loss": NaN}\n{"step": 2, "lo\n\xff\n[2]\n{"loss": 1.0}\n{"step": 3}\n'
    rows, damaged = read_lines(raw)
    assert [row["step"] for row in rows] == [1, 3]
    assert damaged == 4
    assert read_lines(b"") == ([], 0)
