"""The exponential moving average of an engine's masters."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from orchestrator.train.engine import foreach


class Average:
    """Follows the masters step by step, and takes their place while something is sampled.

    Args:
        masters: float32, as they are now.
        decay: share of the old average in the new one.
        push: makes the module compute with the masters' values; collective.

    Attributes:
        tensors: the average, in the order and the shapes of the masters.
    """

    def __init__(
        self, masters: Sequence[Tensor], *, decay: float, push: Callable[[], None]
    ) -> None:
        self.tensors = [master.detach().clone() for master in masters]
        self._masters = masters
        self._decay = decay
        self._push = push
        self._is_in_force = False

    def follow(self) -> None:
        """Moves the average towards the masters."""
        foreach.move_average(self.tensors, towards=self._masters, decay=self._decay)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Within it the module computes with the average; afterwards all is as before.

        Raises:
            RuntimeError: if it is in force already.
        """
        if self._is_in_force:
            raise RuntimeError("ema_weights is already in force")
        self._is_in_force = True
        self._swap()
        try:
            yield
        finally:
            self._swap()
            self._is_in_force = False

    def _swap(self) -> None:
        for index, master in enumerate(self._masters):
            master.data, self.tensors[index] = self.tensors[index], master.data
        self._push()
