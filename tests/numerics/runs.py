"""Trainings that several tests look at; each is made once a session."""

from pathlib import Path

from tests.numerics import tasks
from tests.numerics.gang import Gang
from tests.numerics.tasks import Result, Setup

SAVE_AT = 4


class Runs:
    """Runs of 24 steps with a checkpoint after the fourth."""

    def __init__(self, gangs: dict[int, Gang], *, folder: Path) -> None:
        self._gangs = gangs
        self._folder = folder
        self._made: dict[tuple[int, Setup], tuple[Result, Result]] = {}

    def uri(self, world_size: int, setup: Setup) -> str:
        """Where the run's checkpoint is, once it was trained."""
        return str(self._folder / f"{setup}-of-{world_size}")

    def parts(self, world_size: int, setup: Setup) -> tuple[Result, Result]:
        """What came before the checkpoint and what after."""
        if (world_size, setup) not in self._made:
            self._made[world_size, setup] = self._gangs[world_size].run(
                tasks.run_and_save,
                setup=setup,
                uri=self.uri(world_size, setup),
                save_at=SAVE_AT,
            )[0]
        return self._made[world_size, setup]

    def losses(self, world_size: int, setup: Setup) -> list[float]:
        """All losses."""
        return [loss for part in self.parts(world_size, setup) for loss in part.losses]

    def norms(self, world_size: int, setup: Setup) -> list[float]:
        """All gradient norms."""
        return [norm for part in self.parts(world_size, setup) for norm in part.norms]
