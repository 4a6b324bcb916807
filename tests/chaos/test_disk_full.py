"""A disk with no room, one after the other: the run's, the one for notes, the scratch's."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.storage.folder import FolderStore
from orchestrator.storage.store import Store
from tests.chaos.runs import (
    CHECKPOINTS,
    STAGE,
    STEPS,
    Ended,
    Place,
    Result,
    assert_tracked,
    ended,
    result_of,
    saved,
)

# Root may mount where it is; others may in a user namespace of their own, where there are any.
IS_ROOT = os.getuid() == 0
MOUNTS = ("unshare", "--mount", *(() if IS_ROOT else ("--map-root-user",)))
ENTER = ("nsenter", "--mount", *(() if IS_ROOT else ("--user", "--preserve-credentials")))

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        subprocess.run([*MOUNTS, "true"], capture_output=True, check=False).returncode != 0,
        reason="mounts are not permitted here",
    ),
]
NO_SPACE = "No space left on device"
SIZE = 16 << 20
FOR_ONE_CHECKPOINT = 800_000  # bytes; one is 530 kB
FOR_NO_CHECKPOINT = 200_000  # with none at all, Python would take another folder
FILLER = "filler"


class Disks:
    """Small disks that only this object and the commands that it starts can see."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # It keeps the mounts as long as it lives: a command of its own would take them along.
        self._holder = subprocess.Popen(
            [*MOUNTS, "sh", "-c", "echo there; exec cat >/dev/null"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline(), "the mounts would be everybody's"
        self._mounted: set[str] = set()

    @property
    def inside(self) -> tuple[str, ...]:
        """What a command is started with to see them."""
        return (*ENTER, "--target", str(self._holder.pid))

    def path(self, name: str) -> Path:
        """A disk as its commands name it."""
        return self._folder / name

    def seen(self, name: str) -> Path:
        """The same as this process can read it."""
        return Path(f"/proc/{self._holder.pid}/root{self.path(name)}")

    def make(self, name: str) -> None:
        """An empty one."""
        self.path(name).mkdir()
        mount = ("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(self.path(name)))
        subprocess.run([*self.inside, *mount], check=True)

    def fill(self, name: str, *, leaving: int = 0) -> None:
        """Leaves so many bytes of it, rounded up to a page."""
        room = os.statvfs(self.seen(name))
        (self.seen(name) / FILLER).write_bytes(bytes(room.f_bavail * room.f_bsize - leaving))

    def empty(self, name: str) -> None:
        """Gives the room back."""
        (self.seen(name) / FILLER).unlink()

    def close(self) -> None:
        """They are gone."""
        self._holder.communicate()


@dataclass(frozen=True)
class Story:
    """One run on disks that fill up and are made larger one by one.

    Attributes:
        ends: how the command ended each time.
        saved: the checkpoints that there were after each of them but the last.
        parts: files that were being written when there was no more room.
    """

    place: Place
    store: Store
    disks: Disks
    ends: list[Ended]
    saved: list[list[int]]
    parts: list[Path]


@pytest.fixture(scope="module")
def story(
    clips: str, undisturbed: Result, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Story]:
    folder: Path = tmp_path_factory.mktemp("disk-full")
    disks = Disks(folder)
    try:
        place = Place(
            folder=folder,
            runs=str(disks.path("runs")),
            env={"TMPDIR": str(disks.path("scratch")), "XDG_CACHE_HOME": str(disks.path("notes"))},
            inside=disks.inside,
        )
        place.write_recipe(clips=clips)
        for name in ("runs", "scratch", "notes"):
            disks.make(name)
        store = FolderStore(disks.seen("runs") / "tiny")  # open_store would follow the link
        ends: list[Ended] = []
        counts: list[list[int]] = []
        parts: list[Path] = []
        for full, leaving in (("runs", FOR_ONE_CHECKPOINT), ("notes", 0)):
            disks.fill(full, leaving=leaving)
            ends.append(ended(place.start()))
            disks.empty(full)
            counts.append(saved(store))
            parts = [*parts, *disks.seen("runs").rglob(".part-*")]
        disks.fill("scratch", leaving=FOR_NO_CHECKPOINT)
        ends.append(ended(place.start()))
        yield Story(place=place, store=store, disks=disks, ends=ends, saved=counts, parts=parts)
    finally:
        disks.close()


def last_lines(end: Ended) -> list[str]:
    return [line for line in end.err.splitlines() if line.startswith("rushes: ")]


def test_each_ends_with_one_line_that_names_the_place(story: Story) -> None:
    wanted = (
        (2, f"{story.place.uri}/{CHECKPOINTS}/step-"),
        (75, str(story.disks.path("notes"))),
    )
    for (code, path), end in zip(wanted, story.ends[:-1], strict=True):
        assert end.code == code, str(end)
        (line,) = last_lines(end)
        assert path in line
        assert NO_SPACE in line
        assert "Traceback" not in end.out + end.err


def test_the_last_commit_stays(story: Story) -> None:
    assert story.saved == [[2], [2]]
    assert not story.parts


def test_with_room_for_the_run_alone_the_same_command_goes_on_to_the_same_end(
    story: Story, undisturbed: Result
) -> None:
    assert story.ends[-1].code == 0, str(story.ends[-1])
    assert f"{STAGE}: goes on from step 2," in story.ends[-1].out
    assert result_of(story.store) == undisturbed
    assert [step for step, _ in undisturbed.curve] == list(range(1, STEPS + 1))
    assert_tracked(story.place, story.store, last=story.ends[-1])
