"""Files that events name."""

from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.storage.store import open_store
from orchestrator.tracking.fetch import fetched


def test_a_local_file_is_used_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a b.mp4"
    path.write_bytes(b"clip")
    for uri in (str(path), path.as_uri()):
        with fetched(uri) as found:
            assert found == path
    assert path.exists()


def test_an_object_is_copied_under_its_name_and_the_copy_removed() -> None:
    open_store("memory://runs/one").put("stages/dit/clip.mp4", b"clip")
    with fetched("memory://runs/one/stages/dit/clip.mp4") as found:
        assert found.name == "clip.mp4"
        assert found.read_bytes() == b"clip"
    assert not found.exists()


@pytest.mark.parametrize("uri", ["memory://runs/none.mp4", "/none/none.mp4"])
def test_what_is_not_there_is_refused_by_name(uri: str) -> None:
    with pytest.raises((UserError, FileNotFoundError), match=r"none\.mp4"), fetched(uri):
        pass
