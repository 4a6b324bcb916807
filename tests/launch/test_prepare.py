"""`rushes prepare --local`: what is printed, exit codes, and commands that take the result."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from orchestrator.launch import prepare as command
from tests.data.prepare.films import broken_films, one_scene, photo
from tests.launch.test_cli import rushes

ROOT = Path(__file__).parents[2]
FAST = ("--local", "--set", "encoding.preset=ultrafast")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    broken_films(folder)
    one_scene(folder / "film.mp4", 1, size=(160, 256))
    photo(folder / "photo.jpg", 2)
    (folder / "photo.txt").write_text("a photo")
    (folder / "notes.pdf").write_bytes(b"x")
    return folder


def test_defaults_alone_make_a_source_that_other_commands_take(
    capsys: pytest.CaptureFixture[str], raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, printed, err = rushes(capsys, "prepare", str(raw), str(out), *FAST)
    assert (code, err) == (0, "")
    lines = printed.splitlines()
    assert lines[0] == f"{raw}: 9 videos and images"
    assert lines[1] == "not looked at: 1 other files"
    assert lines[-2:] == [
        f"what became of every video and clip: {out}/rows.parquet",
        f"shards and index: {out}",
    ]
    for words in ("rejected: video, broken", "kept: 17 frames of 144 x 256", "kept: 1 frame of"):
        assert words in printed
    assert rushes(capsys, "data", "validate", str(out))[0] == 0
    sheet = tmp_path / "sheet.png"
    assert rushes(capsys, "data", "show", str(out), "--out", str(sheet))[0] == 0
    with PIL.Image.open(sheet) as picture:
        assert picture.width > 100
    code, again, _ = rushes(capsys, "prepare", str(raw), str(out), *FAST)
    assert code == 0
    assert "rejected: video, broken" in again
    assert "probe" not in again


def test_a_config_is_read_and_overridden(
    capsys: pytest.CaptureFixture[str], raw: Path, tmp_path: Path
) -> None:
    config = tmp_path / "prepare.yaml"
    config.write_text("buckets: [{frames: 12, size: [64, 64], fps: 12}]\n")
    more = ("--config", str(config), "--set", "buckets.0.size=[96, 96]")
    code, printed, _ = rushes(capsys, "prepare", str(raw), str(tmp_path / "out"), *FAST, *more)
    assert code == 0
    assert "kept: 12 frames of 96 x 96" in printed


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("nowhere", "out"), "no videos or images"),
        (("raw", "raw"), "both SOURCE and TARGET"),
        (("raw", "out", "--workers", "2"), "--workers 2: --local has one process"),
        (("raw", "out", "--set", "bucket=1"), "prepare: bucket: unknown key"),
        (("raw", "out", "--config", "gone.yaml"), "config gone.yaml: No such file"),
        (("table.csv", "out"), "columns are file; wanted path"),
        (("raw", "file/below"), "Not a directory"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str],
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").symlink_to(raw)
    (tmp_path / "table.csv").write_text("file\na.mp4\n")
    (tmp_path / "file").write_text("")
    code, out, err = rushes(capsys, "prepare", *args, "--local")
    (line,) = err.splitlines()
    assert (code, out) == (2, "")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_nothing_kept_is_exit_2_after_the_reasons(
    capsys: pytest.CaptureFixture[str], raw: Path, tmp_path: Path
) -> None:
    large = ("--set", "buckets=[{frames: 8, size: [2048, 2048]}]")
    code, out, err = rushes(capsys, "prepare", str(raw), str(tmp_path / "out"), *FAST, *large)
    assert code == 2
    assert "rejected: clip, no-bucket" in out
    assert "no clip was kept, wanted at least one" in err


def test_other_processes_have_other_memory(capsys: pytest.CaptureFixture[str], raw: Path) -> None:
    code, _, err = rushes(capsys, "prepare", str(raw), "memory://somewhere")
    assert code == 2
    assert "wanted --local or another place" in err


def test_a_signal_stops_it_and_the_same_command_goes_on(
    capsys: pytest.CaptureFixture[str],
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare = command.prepare

    def interrupted(*args: object, on_progress: Callable[..., None], **more: object) -> object:
        def signalling(step: str, done: int, total: int) -> None:
            if step == "probe to score" and not done:  # once: a second signal would end it at once
                signal.raise_signal(signal.SIGTERM)
            on_progress(step, done, total)

        return prepare(*args, on_progress=signalling, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(command, "prepare", interrupted)
    args = ("prepare", str(raw), str(tmp_path / "out"), *FAST)
    code, _, err = rushes(capsys, *args)
    assert (code, err) == (143, "rushes: stopped; the same command goes on with what is done\n")
    monkeypatch.setattr(command, "prepare", prepare)
    assert rushes(capsys, *args)[0] == 0
    assert rushes(capsys, "data", "validate", str(tmp_path / "out"))[0] == 0


def test_killed_it_goes_on(raw: Path, tmp_path: Path) -> None:
    args = [sys.executable, "-m", "orchestrator", "prepare", str(raw), str(tmp_path / "out"), *FAST]
    process = subprocess.Popen(args, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("probe"):
            break
    process.kill()
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "out" / "index.json").exists()
    done = subprocess.run(args, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "kept: 17 frames of 144 x 256" in done.stdout


DEADLY = """
import os, pathlib, signal
from orchestrator.data.prepare.plugins import Said

class Deadly:
    def __init__(self, *, shown, armed):
        self._shown, self._armed = pathlib.Path(shown), pathlib.Path(armed)

    def __call__(self, looks):
        with self._shown.open("a") as file:
            file.write(looks[0].key + "\\n")
        if looks[0].key.startswith("film2") and self._armed.exists():
            self._armed.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return [Said(scores={"well": 1.0}) for _ in looks]
"""


def test_killed_inside_a_step_it_does_no_finished_unit_of_it_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        one_scene(tmp_path / "raw" / f"film{number}.mp4", number, seconds=1.0)
    (tmp_path / "deadly.py").write_text(DEADLY)
    shown, armed = tmp_path / "shown.txt", tmp_path / "armed"
    armed.touch()
    options = f"{{shown: {shown}, armed: {armed}}}"
    scorer = f"{{id: deadly, use: 'deadly:Deadly', scores: [well], options: {options}}}"
    args = ["prepare", str(tmp_path / "raw"), str(tmp_path / "out"), *FAST]
    args += ["--set", "buckets=[{frames: 8, size: [48, 64]}]", "--set", "unit_videos=1"]
    args += ["--set", f"scorers=[{scorer}]"]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    killed = subprocess.run(
        [sys.executable, "-m", "orchestrator", *args],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL
    before = shown.read_text().split()
    assert before == [f"film{number}-00000" for number in range(3)]
    monkeypatch.syspath_prepend(str(tmp_path))
    code, _, err = rushes(capsys, *args)
    assert (code, err) == (0, "")
    assert shown.read_text().split() == [*before, *(f"film{n}-00000" for n in (2, 3, 4))]
