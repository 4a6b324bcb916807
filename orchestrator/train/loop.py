"""The training loop: every stage, every engine, every world size."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from orchestrator.data.index import Bucket
from orchestrator.data.stream import StepBatch, Stream
from orchestrator.errors import RushesError
from orchestrator.recipe.stage import Stage
from orchestrator.train.engine.base import Engine
from orchestrator.train.hooks import Asked
from orchestrator.train.randomness import SlotRandom, happens_at
from orchestrator.train.ranks import Ranks
from orchestrator.train.schedule import learning_rate
from orchestrator.train.tasks.base import Micro, Task
from orchestrator.train.window import Window

MAX_SKIPPED_IN_A_ROW = 20


@dataclass(frozen=True)
class Step:
    """One finished optimizer step, handed to the worker.

    Attributes:
        number: steps done so far.
        lr: learning rate that was used.
        window: sums since the last logged step.
        ends_window: this is a logged step; the next one begins a new window.
        asked: what rank 0 was asked to do; all ranks see the same value.
    """

    number: int
    lr: float
    window: Window
    ends_window: bool
    asked: Asked

    @property
    def stop(self) -> bool:
        """The run was asked to stop: this was the last step."""
        return self.asked is Asked.STOP


@dataclass(frozen=True)
class Loop:
    """What one rank trains, with what, on what."""

    stage: Stage
    seed: int
    task: Task
    engines: Mapping[str, Engine]
    stream: Stream
    ranks: Ranks
    asked: Callable[[], Asked]

    def steps(self, *, start: int, window: Window) -> Iterator[Step]:
        """Trains from step ``start`` on, yielding after every optimizer step.

        Args:
            start: steps done.
            window: of the steps before ``start`` that are not logged yet.

        Raises:
            RushesError: when no step could be applied for a long time in a row.
        """
        train = self.stage.training
        in_a_row = 0
        for step in range(start, train.steps):
            batch = self.stream.next()
            window.wait_s += self.stream.take_wait_s()
            window.count(self.task.work(self._seen(batch, step=step)), clips=train.batch)
            lr = learning_rate(step, optim=train.optim, steps=train.steps)
            applied = self._step(batch, step=step, lr=lr, window=window)
            window.steps += 1
            window.skipped += not applied
            in_a_row = 0 if applied else in_a_row + 1
            if in_a_row >= MAX_SKIPPED_IN_A_ROW:
                raise RushesError(
                    f"stage {self.stage.id}: gradients were not finite in {in_a_row} steps in a "
                    f"row, last at step {step + 1}; lower train.optim.lr (seen {train.optim.lr}) "
                    "or start again from an earlier checkpoint"
                )
            asked = Asked(self.ranks.first(self.asked() if self.ranks.rank == 0 else 0))
            ends = (step + 1) % train.log_every == 0 or step + 1 == train.steps
            yield Step(number=step + 1, lr=lr, window=window, ends_window=ends, asked=asked)
            if asked is Asked.STOP:
                return
            if ends:
                window = Window()

    def _is_of_images(self, step: int) -> bool:
        return happens_at(step, share=self.stage.training.image_share)

    def _seen(self, batch: StepBatch, *, step: int) -> Bucket:
        """Frames, height and width of what this step sees of every clip, on every rank."""
        frames, height, width = batch.bucket
        return (1 if self._is_of_images(step) else frames), height, width

    def _step(self, batch: StepBatch, *, step: int, lr: float, window: Window) -> bool:
        active = [name for name in self.engines if self.task.is_active(name, step=step)]
        for micro in self._micros(batch, step=step):
            for name in active:
                loss = self.task.loss(name, self.engines, micro)
                self.engines[name].backward(loss.value)
                window.add(loss.stats, loss.weights)
        applied = True
        for name in active:
            outcome = self.engines[name].step(lr=lr)
            window.grad_norm[name] = outcome.grad_norm
            applied = applied and outcome.applied
        return applied

    def _micros(self, batch: StepBatch, *, step: int) -> Iterator[Micro]:
        train = self.stage.training
        images = self._is_of_images(step)
        for first in range(0, len(batch.slots), train.micro_batch):
            part = slice(first, first + train.micro_batch)
            yield Micro(
                samples=tuple(batch.samples[part]),
                captions=batch.captions[part],
                fps=batch.fps[part],
                packed=batch.packed[part],
                random=SlotRandom(
                    batch.slots[part], seed=self.seed, stage=self.stage.id, step=step
                ),
                step=step,
                images=images,
            )
