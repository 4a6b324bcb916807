"""What tests of this room share: clips, and the same training with nothing in its way."""

from pathlib import Path

import pytest

from orchestrator.storage.store import open_store
from tests.chaos.runs import Place, Result, ended, result_of


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of a folder for clips; who comes first writes them."""
    return str(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def undisturbed(clips: str, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Of a plain process, from the command to its end."""
    folder: Path = tmp_path_factory.mktemp("undisturbed")
    place = Place(folder=folder, runs=str(folder / "runs"))
    place.write_recipe(clips=clips)
    end = ended(place.start())
    assert (end.code, end.err) == (0, ""), str(end)
    return result_of(open_store(place.uri))
