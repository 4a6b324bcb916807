"""Errors that a user sees, each with the exit code that it ends the process with."""

from typing import ClassVar


class RushesError(Exception):
    """Base of the errors that end a command with one line and no stack trace."""

    exit_code: ClassVar[int] = 1


class UserError(RushesError):
    """The input is wrong: the message names the field, the value seen and the value wanted."""

    exit_code = 2


class UnavailableError(RushesError):
    """Something outside (store, cluster, tracker) gave up; the same command will go on."""

    exit_code = 75


class StoppedError(RushesError):
    """Stopped by a signal after saving; the same command will go on."""

    exit_code = 143


def error_with_code(code: int, text: str) -> RushesError:
    """The error that another process of ours ended with."""
    kinds = (UserError, UnavailableError, StoppedError)
    return next((kind for kind in kinds if kind.exit_code == code), RushesError)(text)
