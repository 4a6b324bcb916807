"""What a job is sent: our packages and the recipe, nothing else that lies around."""

import shutil
from pathlib import Path

import models
import orchestrator
from orchestrator.errors import UserError

MAX_BYTES = 8 << 20
RECIPE_FOLDER = "jobs"

_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "*.md", ".*")


def make_package(folder: Path, *, recipe: Path) -> int:
    """Copies the packages and the recipe file into an empty folder; returns its size in bytes.

    Raises:
        UserError: if that is far more than code.
    """
    for package in (orchestrator, models):
        assert package.__file__ is not None
        source = Path(package.__file__).parent
        shutil.copytree(source, folder / source.name, ignore=_LEFT_OUT)
    project = Path(orchestrator.__file__ or "").parents[1] / "pyproject.toml"
    if project.exists():
        shutil.copy(project, folder)
    (folder / RECIPE_FOLDER).mkdir()
    shutil.copy(recipe, folder / RECIPE_FOLDER)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise UserError(
            f"the job's package has {size} bytes, wanted at most {MAX_BYTES}: something that is "
            "not code lies in orchestrator/ or models/"
        )
    return size
