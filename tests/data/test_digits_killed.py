"""Writing the digits source is stopped or killed in the middle."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.data import digits_shards
from orchestrator.data.digits_shards import ensure_digits
from orchestrator.data.index import HEAD
from orchestrator.errors import StoppedError
from orchestrator.recipe.data import Digits

SMALL = Digits(clips=12)


def test_a_stop_while_writing_leaves_no_index(tmp_path: Path) -> None:
    def stop(written: int, clips: int) -> None:
        raise StoppedError(f"{written} of {clips}")

    with pytest.raises(StoppedError, match="0 of 12"):
        ensure_digits(SMALL, split="train", uri=str(tmp_path), on_clips=stop)
    assert not (tmp_path / HEAD).exists()
    index = ensure_digits(SMALL, split="train", uri=str(tmp_path), on_clips=lambda *_: None)
    assert len(index) == SMALL.clips


def test_its_processes_end_when_it_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from orchestrator.data.digits_shards import ensure_digits\n"
        "from orchestrator.recipe.data import ClipShape, Digits\n"
        "if __name__ == '__main__':\n"
        "    images = (ClipShape(frames=1, size=(20, 20)),)\n"
        "    ensure_digits(Digits(clips=100_000, shapes=images), split='train', uri=sys.argv[1],\n"
        "                  on_clips=lambda *_: print(flush=True))\n"
    )
    (tmp_path / "program.py").write_text(program)
    root = Path(digits_shards.__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "clips")],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()  # told of nothing written yet
        parent.stdout.readline()  # the first shard: its processes are at work
        parent.send_signal(signal.SIGKILL)
        # Its pipe ends when the last process that holds it has ended.
        deadline_s = time.monotonic() + 30
        parent.stdout.read()
        assert time.monotonic() < deadline_s
