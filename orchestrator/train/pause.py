"""A gang between two steps: what it is asked to do, a pause once it is saved, how it goes on."""

from orchestrator.train.hooks import Asked, Hooks
from orchestrator.train.ranks import Ranks


class Pauses:
    """Pauses of a gang: one per request, however long the request stands."""

    def __init__(self, hooks: Hooks, *, ranks: Ranks) -> None:
        self._hooks = hooks
        self._ranks = ranks
        self._is_refused = False

    def asked(self) -> Asked:
        """What this rank knows of what the gang is to do: any may end it, rank 0 has it pause."""
        if self._hooks.should_stop():
            return Asked.STOP
        if self._ranks.rank:
            return Asked.NOTHING
        if not self._hooks.should_pause():
            self._is_refused = False
            return Asked.NOTHING
        return Asked.NOTHING if self._is_refused else Asked.PAUSE

    def wait(self, *, step: int) -> None:
        """Pauses with everything up to ``step`` saved; every rank must call it."""
        if self._ranks.rank == 0:
            self._hooks.paused(step)
        self._ranks.barrier()

    def refuse(self) -> None:
        """Trains on, for there is no save; the same request does not cost every step one more."""
        self._is_refused = True


def start_note(*, step: int, ranks: int, of: int, before: int | None) -> str | None:
    """What a gang says as it starts; nothing if it is a full one at the very beginning.

    Args:
        step: steps done.
        ranks: of this gang.
        of: of the full gang.
        before: of the gang that saved the checkpoint; None: there is none.
    """
    if before is None:
        return None if ranks == of else f"starts with {_workers(ranks)} (of {of})"
    if ranks < of:
        return f"goes on with {_workers(ranks)} (of {of}) from step {step}"
    if before < ranks:
        return f"goes on with all {_workers(ranks)} from step {step}"
    return f"goes on from step {step}"


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"
