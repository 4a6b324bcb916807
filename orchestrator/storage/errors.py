"""What a store can answer besides data."""

from orchestrator.errors import UserError


class TransientError(Exception):
    """Throttled, reset, truncated or timed out: the same call may go through later."""


class NotFoundError(UserError):
    """The object is not there."""


class PastEndError(UserError):
    """The part that was asked for begins behind the object's end."""


class RefusedError(UserError):
    """The store does not permit this to these credentials."""
