"""What a job is sent: our packages, the recipe and the small files that it names; nothing else.

A user's folder is never sent as a whole, so what lies around in it (runs, clips, a .env) stays.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import models
import orchestrator
from models.text.config import check_checkpoint
from orchestrator.errors import UserError
from orchestrator.recipe.named_files import checkpoints, perceptual_files
from orchestrator.recipe.recipe import Recipe

MAX_BYTES = 64 << 20  # Ray takes 512 MiB, and keeps it in the memory of the head
RECIPE_FOLDER = "jobs"

# Names of files and folders that are not sent wherever they lie, not even when they are asked for.
# docs/cluster.md lists them; .rayignore has the same for `ray job submit`.
SECRET = (
    *(".?*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "*.jks", "*.ppk", "*.keytab"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*"),
    *("*credential*", "*secret*", "*password*", "*accesskeys*", "*service-account*"),
    *("auth_token*", "token", "token.txt", "*.token", "kubeconfig*", "htpasswd*", "_netrc"),
)
_CLUTTER = ("__pycache__", "*.pyc", "*.md", "*.egg-info", "*~", "*.swp")


@dataclass(frozen=True)
class Sent:
    """One file of a package.

    Attributes:
        source: where it is here.
        name: where it will be in the job's folder.
        num_bytes: its size.
    """

    source: Path
    name: str
    num_bytes: int


@dataclass(frozen=True)
class Package:
    """What is sent, and what was left out although it lay between.

    Attributes:
        files: in the order in which they were found.
        left_out: names of files and folders that look like secrets or lead elsewhere.
    """

    files: tuple[Sent, ...]
    left_out: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Of all files, before Ray compresses them."""
        return sum(one.num_bytes for one in self.files)

    def copy_to(self, folder: Path) -> None:
        """Copies the files into an empty folder."""
        for one in self.files:
            target = folder / one.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(one.source, target)


def list_package(recipe: Recipe, *, file: Path, folder: Path) -> Package:
    """Lists what a job needs; nothing is read or copied yet, however large it is.

    Args:
        recipe: as it will run.
        file: the recipe file.
        folder: the user's working folder: what relative paths of the recipe start from.

    Raises:
        UserError: if that is more than ``MAX_BYTES``, if a file that the recipe names is not
            there, outside of ``folder`` or a secret.
    """
    left_out: list[str] = []
    files: list[Sent] = []
    for package in (orchestrator, models):
        assert package.__file__ is not None
        source = Path(package.__file__).parent
        files += _below(source, name=source.name, left_out=left_out)
    files.append(_sent(file, name=f"{RECIPE_FOLDER}/{file.name}"))
    for field, path in _relative(recipe, folder=folder).items():
        files += _named(field, path, folder=folder, left_out=left_out)
    return _checked(Package(files=tuple(files), left_out=tuple(left_out)))


def _relative(recipe: Recipe, *, folder: Path) -> dict[str, str]:
    """Weights that the recipe names from the working folder, by field.

    An absolute path is one of the nodes; a hub name is no path.
    """
    found: dict[str, str] = {}
    for field, path in checkpoints(recipe).items():
        if os.path.isabs(path) or path.startswith("~"):
            continue
        if (folder / path).exists():
            found[field] = path
            continue
        try:
            check_checkpoint(path, field=field)
        except ValueError as error:
            raise UserError(str(error)) from None
    for stage in recipe.stages:
        for field, path in perceptual_files(stage).items():
            if not os.path.isabs(path):
                found[f"stages.{stage.id}.{field}"] = path
    return found


def _named(field: str, path: str, *, folder: Path, left_out: list[str]) -> list[Sent]:
    source = folder / path
    name = os.path.normpath(path)
    if name.startswith(".."):
        raise UserError(
            f"{field}={path}: lies outside of {folder}, wanted a path below it, or an absolute "
            "one that every node sees"
        )
    if any(_is_secret(part) for part in PurePosixPath(name).parts):
        raise UserError(f"{field}={path}: a name that is kept for secrets, wanted another one")
    if source.exists() and not _stays_within(source, folder.resolve()):
        raise UserError(
            f"{field}={path}: a link that leads out of {folder} or to a name that is kept for "
            "secrets, wanted the file itself, or an absolute path that every node sees"
        )
    if source.is_dir():
        return list(_below(source, name=name, left_out=left_out))
    if not source.is_file():
        raise UserError(
            f"{field}={path}: does not exist, wanted a file to send along, or an absolute path "
            "that every node sees"
        )
    return [_sent(source, name=name)]


def _below(source: Path, *, name: str, left_out: list[str]) -> Iterator[Sent]:
    """Files of a folder; what is left out for other reasons than being clutter is told of."""
    root = source.resolve()
    for here, folders, files in os.walk(source):
        place = PurePosixPath(name, *Path(here).relative_to(source).parts)
        kept: list[str] = []
        for one in sorted(folders):
            if _matches(one, _CLUTTER):
                continue
            if _is_secret(one) or Path(here, one).is_symlink():
                left_out.append(str(place / one))
                continue
            kept.append(one)
        folders[:] = kept
        for one in sorted(files):
            if _matches(one, _CLUTTER):
                continue
            path = Path(here, one)
            if _is_secret(one) or not _stays_below(path, root):
                left_out.append(str(place / one))
                continue
            yield _sent(path, name=str(place / one))


def _stays_below(path: Path, root: Path) -> bool:
    """False for a link to something elsewhere, or to a secret."""
    return path.is_file() and _stays_within(path, root)


def _stays_within(path: Path, root: Path) -> bool:
    found = path.resolve()
    if not found.is_relative_to(root):
        return False
    return not any(_is_secret(part) for part in found.relative_to(root).parts)


def _is_secret(name: str) -> bool:
    return _matches(name, SECRET)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name.lower(), pattern) for pattern in patterns)


def _sent(path: Path, *, name: str) -> Sent:
    try:
        num_bytes = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}, wanted a file to send") from None
    return Sent(source=path, name=name, num_bytes=num_bytes)


def _checked(package: Package) -> Package:
    if package.num_bytes <= MAX_BYTES:
        return package
    largest = max(package.files, key=lambda one: one.num_bytes)
    raise UserError(
        f"{largest.name} has {shown_bytes(largest.num_bytes)}, the job's package "
        f"{shown_bytes(package.num_bytes)}, wanted at most {shown_bytes(MAX_BYTES)}: put it where "
        "every node sees it and name it by an absolute path"
    )


def shown_bytes(num_bytes: int) -> str:
    """For people: ``1.9 MB``."""
    units: Mapping[str, int] = {"GB": 10**9, "MB": 10**6, "kB": 10**3}
    for unit, size in units.items():
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} B"
