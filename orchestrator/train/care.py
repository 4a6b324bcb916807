"""The care for one stage: what was refused, when it goes back, and when it gives up."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from orchestrator.errors import RushesError, UnavailableError
from orchestrator.storage.json_files import read_json
from orchestrator.storage.store import Store
from orchestrator.train.evidence import Evidence, Refusal, row_of, told_of
from orchestrator.train.exchange import gather_json
from orchestrator.train.health import EVIDENCE, STATE, Monitor, Verdict
from orchestrator.train.job import StageJob
from orchestrator.train.loop import Step
from orchestrator.train.ranks import Ranks


class Care:
    """Evidence of refused steps, batches that are left out and rewinds, over all starts of a stage.

    What later starts must know, whichever checkpoint they find, is in ``health.json``; what a user
    wants to know in ``health.jsonl``.

    Args:
        job: the stage.
        store: where the run is.
        ranks: this process and its peers.
        first: lets rank 0 act, and every rank raise what it raised.
        event: told on rank 0 of notes and artifacts.

    Attributes:
        monitor: fed by the loop and at logged steps.
        rewinds: so far.
        left_out: places in the order of data that no step reads any more.
    """

    def __init__(
        self,
        job: StageJob,
        *,
        store: Store,
        ranks: Ranks,
        first: Callable[[Callable[[], None]], None],
        event: Callable[[dict[str, Any]], None],
    ) -> None:
        self._job = job
        self._health = job.spec.training.health
        self._store = store
        self._ranks = ranks
        self._first = first
        self._event = event
        self._key = f"{job.folder}/{STATE}"
        self._evidence = Evidence(store, key=f"{job.folder}/{EVIDENCE}")
        self.monitor = Monitor(self._health)
        self.rewinds = 0
        self.left_out: list[int] = []

    def resume(self) -> None:
        """Reads what earlier starts have left; collective."""

        def read() -> None:
            self._evidence.resume()
            if self._store.exists(self._key):
                state = read_json(self._store, self._key)
                self.rewinds, self.left_out = state["rewinds"], state["left_out"]

        self._first(read)
        mine = [self.rewinds, self.left_out]
        self.rewinds, self.left_out = gather_json(mine, device=self._ranks.device)[0]

    def refused(self, refusal: Refusal) -> None:
        """Keeps the evidence of a step that was not applied; collective."""
        row = row_of(refusal, ranks=self._ranks)
        self._evidence.add(row, rewinds=self.rewinds)
        self._note(
            f"{told_of(row)} ({self.monitor.num_refused} of at most {self._health.budget} within "
            f"{self._health.window} steps)"
        )

    def evidence(self) -> dict[str, bytes]:
        """The evidence so far, for a checkpoint to take along."""
        return self._evidence.copy()

    def is_fit(self, extra: Mapping[str, Any], *, before: int) -> str | None:
        """Why a checkpoint is not one to go back to, if it is not.

        Args:
            extra: what it says.
            before: the first step that is to be trained otherwise.
        """
        if not extra.get("healthy", True):
            return "training was not healthy when it was taken"
        if int(extra["step"]) > before:
            return f"training was found ill from step {before + 1} on"
        return None

    def check_rewinds(self, verdict: Verdict, *, at: Step) -> None:
        """Raises RushesError, with the evidence kept, if training has gone back often enough."""
        if self.rewinds >= self._health.max_rewinds:
            self.give_up(
                verdict,
                at=at,
                why=f"after {self.rewinds} rewinds (train.health.max_rewinds="
                f"{self._health.max_rewinds})",
            )

    def give_up(self, verdict: Verdict, *, at: Step, why: str) -> NoReturn:
        """Ends the stage, with the evidence kept; collective."""
        row = {"kind": "gave_up", "step": at.number, "reason": verdict.reason, "why": why}
        self._evidence.add(row, rewinds=self.rewinds)
        with suppress(UnavailableError):  # the line below says the same
            self._first(self._evidence.put)
            self._show_evidence()
        train = self._job.spec.training
        raise RushesError(
            f"stage {self._job.stage}: at step {at.number}, {verdict.reason}, {why}: evidence in "
            f"{self._evidence.uri}; lower train.optim.lr (seen {train.optim.lr}), take out the "
            "clips named there, or widen train.health"
        )

    def went_back(self, verdict: Verdict, *, at: Step, to: int, positions: Sequence[int]) -> None:
        """Puts down a rewind where every later start finds it; collective.

        Args:
            verdict: why.
            at: the last step.
            to: step of the checkpoint.
            positions: in the order of data, that are left out from now on.
        """
        row = {
            "kind": "rewind",
            "step": at.number,
            "to": to,
            "reason": verdict.reason,
            "steps": [one + 1 for one in verdict.steps],
            "positions": list(positions),
        }
        self._evidence.add(row, rewinds=self.rewinds)
        self.rewinds += 1
        self.left_out = sorted({*self.left_out, *positions})
        state = json.dumps({"rewinds": self.rewinds, "left_out": self.left_out})

        def write() -> None:
            self._evidence.put()
            self._store.put(self._key, state.encode())

        self._first(write)
        self._show_evidence()
        self._note(
            f"{verdict.reason}: back from step {at.number} to the checkpoint of step {to}, "
            f"without the batches of {len(positions)} steps (rewind {self.rewinds} of at most "
            f"{self._health.max_rewinds}); evidence in {self._evidence.uri}"
        )

    def _note(self, text: str) -> None:
        self._event({"kind": "note", "stage": self._job.stage, "text": text})

    def _show_evidence(self) -> None:
        self._event({"kind": "artifact", "stage": self._job.stage, "uri": self._evidence.uri})
