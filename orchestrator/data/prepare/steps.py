"""Steps over units of videos: what each depends on, and doing what is not done yet."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestrator.data.parallel import in_threads
from orchestrator.data.prepare import clips, plugins, probe, scenes, score
from orchestrator.data.prepare.claim import Claim
from orchestrator.data.prepare.executors import Executor, run_surviving
from orchestrator.data.prepare.files import read_rows, write_rows
from orchestrator.data.prepare.keys import units_of
from orchestrator.data.prepare.records import Listed, Row
from orchestrator.data.prepare.tasks import STEPS, Chain, Task, digest_of, output_of
from orchestrator.recipe.prepare import Model, Prepare
from orchestrator.storage.store import Store

T = TypeVar("T", bound=Row)

OnProgress = Callable[[str, int, int], None]
"""Told (step, done, all): videos, or shards. Steps that are done together have one name."""

LIST = "list"
_CLIPS = (LIST, "probe", "clips")


@dataclass(frozen=True)
class Step:
    """A step over videos: the steps that it reads from, and what of the configuration it uses."""

    name: str
    version: int
    inputs: tuple[str, ...]
    part: Any = None
    model: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0


def scoring_steps(config: Prepare) -> list[Step]:
    """Everything before clips are chosen that needs no model of the user's."""
    cut = None if config.scenes is None else config.scenes.model_dump(mode="json")
    return [
        Step("probe", probe.VERSION, (LIST,)),
        Step("scenes", scenes.VERSION, (LIST, "probe"), part=cut),
        Step(
            *("clips", clips.VERSION),
            inputs=(LIST, "probe", "scenes"),
            part=[config.min_s, config.max_s],
        ),
        Step("score", score.VERSION, _CLIPS),
    ]


def model_steps(config: Prepare) -> list[Step]:
    """A step for each of the user's models that score clips."""
    return [
        model_step("score", model, number=number, inputs=_CLIPS)
        for number, model in enumerate(config.scorers)
    ]


def model_step(kind: str, model: Model, *, number: int, inputs: tuple[str, ...]) -> Step:
    """A step of its own for a plug-in."""
    return Step(
        f"{kind}-{model.id}",
        plugins.VERSION,
        inputs,
        part=model.model_dump(mode="json", exclude={"cpus", "gpus"}),
        model=number,
        cpus=model.cpus,
        gpus=model.gpus,
    )


class Units:
    """Videos in units of work, and the files that steps have for each unit.

    Args:
        store: the target.
        claim: to it.
        listed: all videos and images.
        config: what to make of them.
        executor: who does the work.
        on_progress: told how far a step is.
    """

    def __init__(
        self,
        store: Store,
        listed: Sequence[Listed],
        *,
        claim: Claim,
        config: Prepare,
        executor: Executor,
        on_progress: OnProgress,
    ) -> None:
        self.store = store
        self.claim = claim
        self.config = config
        self._executor = executor
        self._on_progress = on_progress
        units = units_of([row.key for row in listed], per_unit=config.unit_videos)
        self.listed = {
            unit: tuple(listed[place] for place in places) for unit, places in units.items()
        }
        self.digests: dict[str, dict[str, str]] = {
            unit: {LIST: digest_of(rows)} for unit, rows in self.listed.items()
        }
        self._files: dict[tuple[str, str], str] = {}

    def write(
        self,
        step: str,
        rows: Mapping[str, Sequence[T]],
        *,
        kind: type[T],
        digests: Mapping[str, str],
    ) -> None:
        """Writes rows by unit, those of them that are not there yet; for steps of the driver."""
        there = self._there(step)
        for unit, part in rows.items():
            output = output_of(step, unit, digest=digests[unit])
            self._files[step, unit] = output
            if output not in there:
                write_rows(self.store, output, part, kind=kind)

    def run(self, *steps: Step, units: Sequence[str] | None = None) -> None:
        """Does steps for all of these units (None: all) that they are not done for yet.

        One process does all steps of a unit, one after the other: no step waits until all units
        have the one before it. So they have the same needs of CPUs and GPUs.
        """
        names = tuple(self.listed if units is None else units)
        todo: list[Task] = []
        for step in steps:
            todo += self._todo(step, digests={unit: self._digest(step, unit) for unit in names})
        title = steps[0].name if len(steps) == 1 else f"{steps[0].name} to {steps[-1].name}"
        self._do_units(title, todo, units=names)

    def run_as(self, step: Step, *, digests: Mapping[str, str]) -> None:
        """As ``run``, for units by the digest of all that the step depends on there."""
        self._do_units(step.name, self._todo(step, digests=digests), units=tuple(digests))

    def do(self, title: str, chains: Sequence[Chain], *, skipped: int) -> None:
        """Does chains of tasks and tells how far it is; so much of it was done before."""
        done, total = skipped, skipped + sum(_weight(chain) for chain in chains)
        self.claim.check()
        self._on_progress(title, done, total)

        def on_done(chain: Chain) -> None:
            nonlocal done
            done += _weight(chain)
            self.claim.look()
            self._on_progress(title, done, total)

        if chains:
            run_surviving(self._executor, chains, on_done=on_done)

    def read(self, step: str, *, kind: type[T]) -> dict[str, list[T]]:
        """Rows of a step by unit; units that it was not done for have none."""
        units = [unit for unit in self.listed if (step, unit) in self._files]
        found = in_threads(lambda unit: self.read_unit(step, unit, kind=kind), units)
        return {unit: [] for unit in self.listed} | dict(zip(units, found, strict=True))

    def read_unit(self, step: str, unit: str, *, kind: type[T]) -> list[T]:
        """Rows of a step that was done for a unit."""
        return read_rows(self.store, self._files[step, unit], kind=kind)

    def forget_others(self, steps: Iterable[str] | None = None) -> None:
        """Deletes what steps wrote for other configurations and other videos."""
        wanted = {name.removesuffix(".parquet") for name in self._files.values()}
        old: list[str] = []
        for name in self.store.list(f"{STEPS}/"):
            step, _, file = name.removeprefix(f"{STEPS}/").partition("/")
            is_old = f"{STEPS}/{step}/{file.partition('.')[0]}" not in wanted
            if is_old and (steps is None or step in steps):
                old.append(name)
        self.delete(old)

    def forget(self, step: str) -> None:
        """Deletes all that a step wrote."""
        self.delete(self.store.list(f"{STEPS}/{step}/"))

    def delete(self, names: Sequence[str]) -> None:
        """Deletes files of this target, while it is ours."""
        # Rows first: those without the clips that they tell of would be gone on with.
        for name in sorted(names, key=lambda name: not name.endswith(".parquet")):
            self.claim.check()
            self.store.delete(name)

    def adopt(self, step: str, unit: str, *, output: str) -> None:
        """Keeps a file that is not of a unit of videos."""
        self._files[step, unit] = output

    def _todo(self, step: Step, *, digests: Mapping[str, str]) -> list[Task]:
        """Tasks of a step that are not done; from here on its files are known."""
        tasks = [self._task(step, unit, digest=digest) for unit, digest in digests.items()]
        for task in tasks:
            self.digests[task.unit][step.name] = digests[task.unit]
            self._files[step.name, task.unit] = task.output
        there = self._there(step.name)
        return [task for task in tasks if task.output not in there]

    def _do_units(self, title: str, tasks: Sequence[Task], *, units: Sequence[str]) -> None:
        of_unit: dict[str, list[Task]] = {}
        for task in tasks:
            of_unit.setdefault(task.unit, []).append(task)
        chains = [tuple(chain) for chain in of_unit.values()]
        videos = sum(len(self.listed[unit]) for unit in units)
        self.do(title, chains, skipped=videos - sum(_weight(chain) for chain in chains))

    def _there(self, step: str) -> set[str]:
        return set(self.store.list(f"{STEPS}/{step}/"))

    def _digest(self, step: Step, unit: str) -> str:
        before = [self.digests[unit][name] for name in step.inputs]
        return digest_of(step.name, step.version, step.part, before)

    def _task(self, step: Step, unit: str, *, digest: str) -> Task:
        return Task(
            step=step.name,
            target=self.store.uri,
            unit=unit,
            inputs={name: self._files[name, unit] for name in step.inputs},
            output=output_of(step.name, unit, digest=digest),
            videos=tuple(row.key for row in self.listed[unit]),
            config=self.config.model_dump(mode="json"),
            model=step.model,
            cpus=step.cpus,
            gpus=step.gpus,
        )


def _weight(chain: Chain) -> int:
    return max(1, len(chain[0].videos))
