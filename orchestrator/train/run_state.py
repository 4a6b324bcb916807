"""What of a stage is not in its engines: how a checkpoint takes it along and gives it back."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from orchestrator.data.stream import Stream
from orchestrator.recipe.digest import recipe_digest
from orchestrator.recipe.recipe import Recipe
from orchestrator.train.audit import Audit
from orchestrator.train.bad_samples import SharedBad
from orchestrator.train.care import Care
from orchestrator.train.exchange import gather_json
from orchestrator.train.loop import Step
from orchestrator.train.metrics_log import MetricsLog
from orchestrator.train.ranks import Ranks
from orchestrator.train.recorder import Recorder
from orchestrator.train.window import Window, restore_window


@dataclass
class RunState:
    """The parts of a stage that go on where a checkpoint left them.

    Attributes:
        audit: None where none is kept.
        bad: None where no sample may be bad.
        metrics: as last logged.
    """

    recipe: Recipe
    ranks: Ranks
    stream: Stream
    recorder: Recorder
    log: MetricsLog
    care: Care
    audit: Audit | None
    bad: SharedBad | None
    metrics: dict[str, float] = field(default_factory=dict[str, float])

    def extra(self, step: Step) -> dict[str, Any]:
        """What a checkpoint of now says beside its tensors, as JSON; collective.

        Raises:
            BadSampleError: on every rank, if there are too many; the text names the last one.
        """
        if self.bad is not None:
            self.bad.share()  # also what was met since the last logged step
        window = Window() if step.ends_window else step.window
        audit = {} if self.audit is None else {"audit": self.audit.piece(step.number)}
        return {
            "stream": self.stream.state_dict(),
            "step": step.number,
            "windows": self.ranks.of_readers(gather_json(window.state(), device=self.ranks.device)),
            "recorder": self.recorder.state_dict(),
            "metrics": self.metrics,
            "health": self.care.monitor.state_dict(),
            "healthy": self.care.monitor.is_healthy,
            "sound_until": self.care.monitor.sound_until(step.number),
            "bad_samples": [] if self.bad is None else self.bad.state_dict(),
            "made_by": {"recipe": recipe_digest(self.recipe)} | _versions(),
        } | audit

    def beside(self) -> dict[str, bytes]:
        """This rank's files that go with the checkpoint of ``extra``, by key of the store."""
        files = {} if self.audit is None else self.audit.copy()
        if self.ranks.rank == 0:
            files |= self.log.copy() | self.care.evidence()
        return files

    def committed(self) -> None:
        """To be called when the checkpoint of the last ``extra`` was committed."""
        if self.audit is not None:
            self.audit.committed()

    def start(self, found: Mapping[str, Any] | None) -> tuple[int, Window]:
        """The step and the window that training goes on with.

        Args:
            found: what a checkpoint says; None: there is none.
        """
        step, window = 0, Window()
        if found is not None:
            step, window = int(found["step"]), self._restored(found)
        self.stream.leave_out(self.care.left_out)
        if self.audit is not None:
            self.audit.resume(None if found is None else found.get("audit"), step=step)
        if self.ranks.rank == 0:
            self.log.resume(step=step)
        return step, window

    def _restored(self, found: Mapping[str, Any]) -> Window:
        self.stream.load_state_dict(found["stream"])
        if "recorder" in found:  # one that was imported holds less
            self.recorder.load_state_dict(found["recorder"])
        if "health" in found:
            self.care.monitor.load_state_dict(found["health"])
        if self.bad is not None:
            self.bad.load_state_dict(found.get("bad_samples", []))
        self.metrics = found.get("metrics", {})
        return restore_window(
            found.get("windows", ()),
            rank=self.ranks.reader,
            world_size=self.ranks.readers,
            device=self.ranks.device,
        )


def _versions() -> dict[str, str]:
    """Of what decides how numbers come out; a package that is not installed here is left out."""
    found: dict[str, str] = {}
    for name in ("rushes", "torch", "deepspeed"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
