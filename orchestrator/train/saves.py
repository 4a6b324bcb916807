"""The checkpoints of one stage: when they are taken, what goes with them, which one is loaded."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.errors import FencedError, UnavailableError
from orchestrator.storage.store import Store
from orchestrator.train.checkpoint.load import load_latest
from orchestrator.train.checkpoint.pace import Pace
from orchestrator.train.checkpoint.save import Saver
from orchestrator.train.engine.base import Engine
from orchestrator.train.hooks import Asked
from orchestrator.train.job import StageJob
from orchestrator.train.ledger import Ledger
from orchestrator.train.loop import Step
from orchestrator.train.ownership import Ownership
from orchestrator.train.pause import start_note
from orchestrator.train.ranks import Ranks
from orchestrator.train.run_state import RunState
from orchestrator.train.window import Window

MAX_LOST = 3  # in a row, that a stage trains on after


class Saves:
    """Saves and loads a stage; all methods but ``is_idle`` and ``wait_for_copy`` are collective.

    Args:
        job: the stage.
        store: where the run is.
        engines: networks by name.
        ranks: this process and its peers.
        ownership: this gang's claim to the stage.
        state: what of the stage is not in its engines.
        ledger: this process's clock.
        note: told on rank 0 of what a user should know.
    """

    def __init__(
        self,
        job: StageJob,
        *,
        store: Store,
        engines: Mapping[str, Engine],
        ranks: Ranks,
        ownership: Ownership,
        state: RunState,
        ledger: Ledger,
        note: Callable[[str], None],
    ) -> None:
        self._job = job
        self._store = store
        self._engines = engines
        self._ranks = ranks
        self._ownership = ownership
        self._state = state
        self._ledger = ledger
        self._note = note
        self._folder = f"{job.folder}/checkpoints"
        self._saver = Saver(
            store,
            self._folder,
            engines=engines,
            ranks=ranks,
            save=job.spec.save,
            ownership=ownership,
            blocked=lambda: ledger.in_phase("save_blocked"),
        )
        self.pace = Pace(
            job.spec.save,
            log_every=job.spec.training.log_every,
            ranks=ranks,
            saver=self._saver,
        )
        self._lost = 0
        self._said_no_metric = self._said_untidy = False

    def is_idle(self) -> bool:
        """Whether this rank writes nothing; not collective."""
        return self._saver.is_idle

    def wait_for_copy(self) -> None:
        """To be called before the engines change; not collective."""
        self._saver.wait_for_copy()

    def resume(self) -> tuple[int, Window]:
        """Goes on from the newest checkpoint that is whole; from step 0 if there is none."""
        started_s = time.monotonic()
        found = self._load(is_fit=None)
        loaded_s = time.monotonic() - started_s
        said = start_note(
            step=0 if found is None else int(found["step"]),
            ranks=self._ranks.world_size,
            of=self._job.spec.compute.ranks,
            before=None if found is None else len(found.get("windows", ())),
        )
        if said is not None:
            self._note(said if found is None else f"{said}, loaded in {loaded_s:.1f} s")
        start, window = self._state.start(found)
        self.pace.resume(
            None if found is None else found.get("pace"),
            step=start,
            gangs=self._ownership.gangs,
            has_begun=found is not None,
        )
        return start, window

    def go_back(self, is_fit: Callable[[Mapping[str, Any]], str | None]) -> dict[str, Any] | None:
        """Loads the newest checkpoint that is whole and fit; what it says, None if there is none.

        Args:
            is_fit: takes what a checkpoint says; why it is not fit, if it is not.
        """
        found = self._load(is_fit=is_fit)
        if found is not None:
            self.pace.went_back(int(found["step"]))
        return found

    def after(self, step: Step, *, is_last: bool) -> None:
        """Saves where that is due or asked for, else looks after the save under way.

        Args:
            step: the one that has ended.
            is_last: nothing is trained after it: its checkpoint is waited for.
        """
        if step.ends_window:
            self._look_for_the_best_metric()
        if self.pace.is_due(step.number) or is_last or step.asked is not Asked.NOTHING:
            with self._ledger.in_phase("save_blocked"):
                self._save(step)
        else:
            self._tolerate(lambda: self._saver.poll(step.idle))
        if is_last:
            self._saver.finish()

    def settle(self) -> bool:
        """Waits for the save under way; whether it was committed."""
        return self._tolerate(self._saver.finish)

    def _save(self, step: Step) -> None:
        self.settle()
        is_asked = step.asked is not Asked.NOTHING
        extra = self._state.extra(step) | {"pace": self.pace.state_dict(stopped=is_asked)}
        self.pace.begins_save(step.number)
        self._saver.begin(
            step=step.number,
            extra=extra,
            beside=self._state.beside(),
            metrics=self._state.metrics,
        )

    def _tolerate(self, collect: Callable[[], bool]) -> bool:
        """Training outlasts a store that is away for some saves, but not for many in a row."""
        try:
            if collect():
                self._lost = 0
                self._state.committed()
                self.pace.committed()
                self._say_untidy()
                return True
        except FencedError:
            raise
        except UnavailableError as error:
            self._lost += 1
            if self._lost > MAX_LOST:
                raise
            self._note(f"{error}; training goes on, the next save tries again")
        return False

    def _say_untidy(self) -> None:
        """Says once that checkpoints pile up."""
        if self._saver.untidy is not None and not self._said_untidy:
            self._said_untidy = True
            self._note(f"old checkpoints stay, for they cannot be deleted: {self._saver.untidy}")

    def _look_for_the_best_metric(self) -> None:
        """Says once that ``keep_best`` asks for a metric that is not logged."""
        rule, names = self._job.spec.save.keep_best, sorted(self._state.metrics)
        if rule is None or rule.metric in names or self._said_no_metric:
            return
        self._said_no_metric = True
        self._note(
            f"save.keep_best.metric={rule.metric} is not logged, so nothing is kept for it; "
            f"wanted one of {', '.join(names)}"
        )

    def _load(
        self, *, is_fit: Callable[[Mapping[str, Any]], str | None] | None
    ) -> dict[str, Any] | None:
        return load_latest(
            self._store,
            self._folder,
            engines=self._engines,
            ranks=self._ranks,
            note=self._note,
            is_fit=is_fit,
        )
