"""`--local` with one rank: a debugger in the terminal reaches the training itself."""

import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.launch.test_local import ROOT, write_recipe

PROMPT = b"(Pdb) "
# Nothing draws over the prompt: no cursor is hidden, no line is erased.
DRAWING = (b"\x1b[?25l", b"\x1b[2K")
SCRIPT = """
import pdb, sys
from orchestrator.__main__ import main
from orchestrator.train import worker

def with_a_breakpoint(job, **given):
    pdb.set_trace()
    return train(job, **given)

train, worker._train = worker._train, with_a_breakpoint
raise SystemExit(main())
"""


class Terminal:
    """A command whose input and output are a terminal."""

    def __init__(self, *command: str, env: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        self.shown = b""

    def read(self, *, until: bytes | None = None) -> bytes:
        """What it shows up to a text, or to its end."""
        begin = len(self.shown)
        with suppress(OSError):  # how a terminal ends whose last program has ended
            while until is None or until not in self.shown[begin:]:
                if not (data := os.read(self._ours, 4096)):
                    break
                self.shown += data
        return self.shown[begin:]

    def type(self, line: str) -> None:
        os.write(self._ours, f"{line}\n".encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [0, 1])  # the plain engine, and DeepSpeed
def test_a_breakpoint_in_training_stops_at_a_prompt_that_nothing_draws_over(
    tmp_path: Path, workers: int
) -> None:
    recipe = write_recipe(tmp_path, stages=("autoencoder",), workers=workers, steps=2)
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TERM": "xterm"}
    command = (sys.executable, "-c", SCRIPT, "train", str(recipe), "--local")
    terminal = Terminal(*command, env=env)
    try:
        before = terminal.read(until=PROMPT)
        assert PROMPT in before, before.decode()
        terminal.type("p job.stage + ' is reached'")
        answer = b"'autoencoder is reached'"
        assert answer in terminal.read(until=answer)
        assert not any(one in terminal.shown for one in DRAWING)
        terminal.type("c")
        rest = terminal.read()
        assert terminal.process.wait() == 0, rest.decode()
    finally:
        terminal.close()
