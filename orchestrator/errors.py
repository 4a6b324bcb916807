"""Errors that a user sees, each with the exit code that it ends the process with."""

from typing import ClassVar

from orchestrator.redact import redact


class RushesError(Exception):
    """Base of the errors that end a command with one line and no stack trace.

    Its text goes to logs, trackers and other processes: what is secret in it is taken out.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, text: str = "") -> None:
        super().__init__(redact(text))


class UserError(RushesError):
    """The input is wrong: the message names the field, the value seen and the value wanted."""

    exit_code = 2


class UnavailableError(RushesError):
    """Something outside (store, cluster, tracker) gave up; the same command will go on."""

    exit_code = 75


class FencedError(UnavailableError):
    """Another process has taken the run over; this one must write no more."""


class StoppedError(RushesError):
    """Stopped by a signal after saving; the same command will go on."""

    exit_code = 143


def in_a_line(error: BaseException) -> str:
    """What a stranger's error is, and the first line of what it says."""
    lines = redact(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


_TOLD = (UserError, UnavailableError, FencedError, StoppedError)


def told(error: BaseException) -> dict[str, str]:
    """An error as JSON, for another process; ``heard`` makes one of it again.

    Other rooms have kinds of their own: each is told as the nearest one of this file.
    """
    kind = next((one for one in type(error).__mro__ if one in _TOLD), RushesError)
    is_ours = isinstance(error, RushesError)
    return {
        "kind": kind.__name__,
        "text": str(error) if is_ours else redact(f"{type(error).__name__}: {error}"),
    }


def heard(message: dict[str, str], *, where: str) -> RushesError:
    """The error that another process told of, with a place before its text."""
    kind = next((one for one in _TOLD if one.__name__ == message["kind"]), RushesError)
    return kind(f"{where}: {message['text']}")


def error_with_code(code: int, text: str) -> RushesError:
    """The error that another process of ours ended with."""
    kinds = (UserError, UnavailableError, StoppedError)
    return next((kind for kind in kinds if kind.exit_code == code), RushesError)(text)
