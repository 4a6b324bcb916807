"""The training loop: every stage, every engine, every world size."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from orchestrator.data.batch import StepBatch
from orchestrator.data.index import Bucket
from orchestrator.data.stream import Stream
from orchestrator.recipe.stage import Stage
from orchestrator.train.engine.base import Engine
from orchestrator.train.evidence import Refusal
from orchestrator.train.health import REFUSE, Monitor, Taken
from orchestrator.train.hooks import Asked
from orchestrator.train.ledger import Ledger
from orchestrator.train.randomness import SlotRandom, happens_at
from orchestrator.train.ranks import Ranks
from orchestrator.train.schedule import learning_rate
from orchestrator.train.tasks.base import Micro, Task
from orchestrator.train.window import Window


@dataclass(frozen=True)
class Step:
    """One finished optimizer step, handed to the worker.

    Attributes:
        number: steps done so far.
        lr: learning rate that was used.
        window: sums since the last logged step.
        ends_window: this is a logged step; the next one begins a new window.
        asked: what the gang was asked to do; all ranks see the same value.
        idle: no rank writes a checkpoint.
        refusal: what is known of a step that was not applied.
    """

    number: int
    lr: float
    window: Window
    ends_window: bool
    asked: Asked
    idle: bool
    refusal: Refusal | None

    @property
    def stop(self) -> bool:
        """The run was asked to stop: this was the last step."""
        return self.asked is Asked.STOP


@dataclass(frozen=True)
class Loop:
    """What one rank trains, with what, on what.

    Attributes:
        stage: the recipe's.
        seed: the recipe's.
        task: what is trained.
        engines: networks by name.
        stream: this rank's clips.
        ranks: this process and its peers.
        asked: what this rank was asked to do.
        idle: whether this rank writes no checkpoint.
        settled: called with the clips of every step as they were read; those to train on.
        took: called with the clips of every step that are trained on.
        before_update: called when gradients are there, before the engines' state changes.
        ledger: this process's clock.
        monitor: which gradients are applied.
    """

    stage: Stage
    seed: int
    task: Task
    engines: Mapping[str, Engine]
    stream: Stream
    ranks: Ranks
    asked: Callable[[], Asked]
    idle: Callable[[], bool]
    settled: Callable[[StepBatch], StepBatch]
    took: Callable[[StepBatch], None]
    before_update: Callable[[], None]
    ledger: Ledger
    monitor: Monitor

    def steps(self, *, start: int, window: Window) -> Iterator[Step]:
        """Trains from step ``start`` on, yielding after every optimizer step.

        Args:
            start: steps done.
            window: of the steps before ``start`` that are not logged yet.
        """
        train = self.stage.training
        self.ledger.settle("compile" if train.compile else "compute")
        for step in range(start, train.steps):
            with self.ledger.in_phase("data_wait"):
                batch = self.settled(self.stream.next())
            self.took(batch)
            window.wait_s += self.stream.take_wait_s()
            work = self.task.work(self._seen(batch, step=step))
            window.count(work, clips=batch.plan.size)
            lr = learning_rate(step, optim=train.optim, steps=train.steps)
            refusal = self._step(batch, step=step, lr=lr, window=window)
            window.steps += 1
            if refusal is not None:
                window.skipped += 1
                window.spikes += refusal.is_spike
            asked, idle = self._agree()
            ends = (step + 1) % train.log_every == 0 or step + 1 == train.steps
            self.ledger.settle("compute")
            yield Step(
                number=step + 1,
                lr=lr,
                window=window,
                ends_window=ends,
                asked=asked,
                idle=idle,
                refusal=refusal,
            )
            if asked is Asked.STOP:
                return
            if ends:
                window = Window()

    def _agree(self) -> tuple[Asked, bool]:
        asked, idle = self.ranks.agree(self.asked(), self.idle())
        return Asked(asked), idle

    def _is_of_images(self, step: int) -> bool:
        return happens_at(step, share=self.stage.training.image_share)

    def _seen(self, batch: StepBatch, *, step: int) -> Bucket:
        """Frames, height and width of what this step sees of every clip, on every rank."""
        frames, height, width = batch.plan.bucket
        return (1 if self._is_of_images(step) else frames), height, width

    def _step(self, batch: StepBatch, *, step: int, lr: float, window: Window) -> Refusal | None:
        active = [name for name in self.engines if self.task.is_active(name, step=step)]
        losses: dict[str, list[Tensor]] = {name: [] for name in active}
        for micro in self._micros(batch, step=step):
            for name in active:
                loss = self.task.loss(name, self.engines, micro)
                self.engines[name].backward(loss.guarded)
                window.add(loss.stats, loss.weights)
                losses[name].append(loss.value.detach())
        self.before_update()
        limits = self.monitor.limits(active)
        taken: dict[str, Taken] = {}
        for name in active:
            # What one network made of a batch that it refuses is not for the next to learn from.
            is_refused = any(not one.applied for one in taken.values())
            limit = REFUSE if is_refused else limits[name]
            outcome = self.engines[name].step(lr=lr, limit=limit)
            window.grad_norm[name] = outcome.grad_norm
            taken[name] = Taken(norm=outcome.grad_norm, limit=limit, applied=outcome.applied)
        self.monitor.took(step, taken)
        if all(one.applied for one in taken.values()):
            return None
        return Refusal(
            step=step,
            position=batch.plan.position,
            lr=lr,
            networks=taken,
            losses=losses,
            keys=batch.keys,
        )

    def _micros(self, batch: StepBatch, *, step: int) -> Iterator[Micro]:
        train = self.stage.training
        images = self._is_of_images(step)
        plan = batch.plan
        size = train.micro_batch * (plan.size // train.batch)
        for first in range(0, len(plan.slots), size):
            part = slice(first, first + size)
            yield Micro(
                samples=tuple(batch.samples[part]),
                captions=batch.captions[part],
                fps=batch.fps[part],
                packed=batch.packed[part],
                random=SlotRandom(
                    plan.slots[part],
                    seed=self.seed,
                    stage=self.stage.id,
                    step=plan.position,
                ),
                step=step,
                images=images,
            )
