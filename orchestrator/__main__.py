"""Entry of ``rushes`` and ``python -m orchestrator``: runs a command, turns errors into exit codes.

The only place where exit codes are decided; their meaning is in ``orchestrator/errors.py``.
"""

import gc
import os
import sys
import tempfile
import threading
import traceback
from typing import NoReturn

from typer import Abort, TyperException
from typer.main import get_command

from orchestrator.errors import RushesError, StoppedError, UserError
from orchestrator.redact import redact

# Ray that is half started, and stages that a second signal did not wait for.
_LEFT_BEHIND = ("ray-start", "stage_")


def command() -> NoReturn:
    """The process ``rushes``: runs the command line and ends with its exit code."""
    code = main()
    gc.freeze()  # what is left ends with the process
    sys.stdout.flush()
    sys.stderr.flush()
    if any(thread.name.startswith(_LEFT_BEHIND) for thread in threading.enumerate()):
        os._exit(code)  # an interpreter's end would wait for them; Ray's reaper ends its processes
    raise SystemExit(code)


def main() -> int:
    """Runs the command line; returns the exit code."""
    from orchestrator.launch.cli import app

    try:
        return get_command(app).main(prog_name="rushes", standalone_mode=False) or 0
    except TyperException as error:
        return _say(error.format_message(), code=UserError.exit_code)
    except RushesError as error:
        return _say(str(error), code=error.exit_code)
    except (KeyboardInterrupt, Abort):
        return _say("stopped", code=StoppedError.exit_code)
    except BrokenPipeError:
        # Whoever read our output is gone; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return StoppedError.exit_code
    except Exception as error:  # the outer edge: a defect of ours, told in one line
        return _say(f"defect: {type(error).__name__}: {_first_line(error)}; trace: {_keep_trace()}")


def _say(text: str, *, code: int = RushesError.exit_code) -> int:
    print(f"rushes: {' '.join(redact(text).split())}", file=sys.stderr)
    return code


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""


def _keep_trace() -> str:
    with tempfile.NamedTemporaryFile(
        "w", prefix="rushes-", suffix=".trace", delete=False, encoding="utf-8"
    ) as file:
        file.write(redact(traceback.format_exc()))
    return file.name


if __name__ == "__main__":
    command()
