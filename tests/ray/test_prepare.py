"""`rushes prepare` on a real Ray: the same as without, and what broken workers cost."""

import os
import signal
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.data.prepare.films import broken_films, one_scene, photo
from tests.ray.conftest import Head

pytestmark = pytest.mark.ray

FAST = ("--set", "encoding.preset=ultrafast", "--set", "unit_videos=1")
BUCKETS = ("--set", "buckets=[{frames: 8, size: [48, 64]}, {frames: 1, size: [64, 64]}]")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    broken_films(folder)
    for number in range(5):
        one_scene(folder / f"film{number}.mp4", number, seconds=1.0 + number / 2)
    photo(folder / "photo.jpg", 2)
    return folder


def prepare(head: Head, raw: Path, out: Path, *more: str, **env: str) -> "subprocess.Popen[str]":
    args = ("prepare", str(raw), str(out), *FAST, *BUCKETS, *more)
    return head.rushes(*args, **{"RAY_ADDRESS": head.gcs, **env})


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def files_of(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != "prepare.json"  # which names the process
    }


@pytest.fixture(scope="module")
def alone(head: Head, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of it."""
    out = tmp_path_factory.mktemp("alone")
    code, _, err = ended(prepare(head, raw, out, "--local"))
    assert (code, err) == (0, "")
    return out


def test_workers_make_what_one_process_makes(
    head: Head, raw: Path, alone: Path, tmp_path: Path
) -> None:
    code, out, err = ended(prepare(head, raw, tmp_path))
    assert (code, err) == (0, "")
    assert "rejected: video, broken" in out
    assert files_of(tmp_path) == files_of(alone)


def test_a_driver_that_was_killed_is_gone_on_with(
    head: Head, raw: Path, alone: Path, tmp_path: Path
) -> None:
    process = prepare(head, raw, tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("probe to score"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.communicate()
    probed = {path: path.stat().st_mtime_ns for path in (tmp_path / "steps" / "probe").iterdir()}
    code, _, err = ended(prepare(head, raw, tmp_path))
    assert (code, err) == (0, "")
    assert files_of(tmp_path) == files_of(alone)
    assert probed == {path: path.stat().st_mtime_ns for path in probed}


def test_a_file_that_ends_its_worker_costs_only_itself(
    head: Head, raw: Path, tmp_path: Path
) -> None:
    module = tmp_path / "modules"
    module.mkdir()
    (module / "deadly.py").write_text(
        "import os, signal\n"
        "from orchestrator.data.prepare.plugins import Said\n"
        "class Deadly:\n"
        "    def __call__(self, looks):\n"
        "        if looks[0].key.startswith('film3'):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return [Said(scores={'well': 1.0}) for _ in looks]\n"
    )
    scorer = ("--set", "scorers=[{id: deadly, use: 'deadly:Deadly', scores: [well]}]")
    path = os.pathsep.join([str(module), head.env["PYTHONPATH"]])
    out = tmp_path / "out"
    code, _, err = ended(
        prepare(head, raw, out, *scorer, "--set", "unit_videos=4", RAY_ADDRESS="", PYTHONPATH=path)
    )
    assert (code, err) == (0, "")
    rows = pq.read_table(out / "rows.parquet").to_pylist()
    dead = [row for row in rows if row["reason"] == "crashed"]
    assert {row["video"] for row in dead} == {"film3"}
    kept = {row["video"] for row in rows if row["kind"] == "clip" and row["ok"]}
    assert {"film0", "film1", "film2", "film4", "photo"} <= kept


def test_a_plug_in_that_is_not_there_is_one_line(head: Head, raw: Path, tmp_path: Path) -> None:
    scorer = ("--set", "scorers=[{id: x, use: 'no.where:X'}]")
    code, _, err = ended(prepare(head, raw, tmp_path, *scorer))
    assert code == 2
    (line,) = err.splitlines()
    assert "use=no.where:X: No module named 'no'" in line
