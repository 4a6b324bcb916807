"""Bad samples of a stage over all its ranks: counted once each, told once, kept by checkpoints."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from orchestrator.data.bad import BadSample, BadSamples
from orchestrator.data.batch import Plan, StepBatch
from orchestrator.errors import RushesError
from orchestrator.train.exchange import gather_json
from orchestrator.train.ranks import Ranks


class SharedBad:
    """What this rank has found and what its peers have.

    A rank that has found too many by itself ends at once (``BadSamples``); too many of all ranks
    together are noticed when they share.

    Args:
        bad: of this rank's stream.
        ranks: this process and its peers.
        note: tells the user; called on rank 0 alone.
    """

    def __init__(self, bad: BadSamples, *, ranks: Ranks, note: Callable[[str], None]) -> None:
        self._bad = bad
        self._ranks = ranks
        self._note = note
        self._shared: dict[tuple[str, int], BadSample] = {}

    def share(self) -> dict[str, float]:
        """Tells the others what was found since the last call, and hears of theirs; collective.

        Returns:
            What is logged.

        Raises:
            BadSampleError: on every rank, if there are too many; the text names the last one.
        """
        mine = [asdict(bad) for bad in self._bad.take_new()]
        everyone = gather_json(mine, device=self._ranks.device)
        new = [BadSample(**one) for some in everyone for one in some]
        for bad in sorted(new):
            if (bad.index, bad.row) not in self._shared:
                self._shared[bad.index, bad.row] = bad
                if self._ranks.rank == 0:
                    self._note(f"bad sample, another stands in for it: {bad.why}")
        self._bad.learn(new)
        if new:
            self._bad.check(last=max(new))
        return {"bad_samples": float(len(self._shared))}

    def settle(self, batch: StepBatch, *, read: Callable[[Plan], StepBatch]) -> StepBatch:
        """The clips of a step, the same on all ranks that share them; collective.

        A clip may be bad for some of these ranks alone, where a disk has damaged their copy of its
        shard: then the others too read what stands in for it.

        Args:
            batch: as this rank has read it.
            read: reads it again.

        Raises:
            BadSampleError: as ``share``.
            RushesError: if they still have read different clips.
        """
        while self._ranks.sharing > 1:
            keys = [batch.parts, batch.keys]
            everyone = gather_json(keys, device=self._ranks.device)
            if all(one == everyone[self._first(rank)] for rank, one in enumerate(everyone)):
                break
            known = len(self._shared)
            self.share()
            if len(self._shared) == known:
                raise RushesError(
                    f"step {batch.plan.step}: ranks that share clips have read different ones, "
                    f"this one {', '.join(batch.keys)}"
                )
            batch = read(batch.plan)
        return batch

    def _first(self, rank: int) -> int:
        return rank - rank % self._ranks.sharing

    def state_dict(self) -> list[dict[str, Any]]:
        """What all ranks know of, as JSON: the same on every rank, at any world size."""
        return [asdict(bad) for bad in sorted(self._shared.values())]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Goes on with what a checkpoint knew of.

        Raises:
            BadSampleError: if fewer are allowed by now.
        """
        known = [BadSample(**one) for one in state]
        self._shared |= {(bad.index, bad.row): bad for bad in known}
        self._bad.learn(known)
        if known:
            self._bad.check(last=max(known))
