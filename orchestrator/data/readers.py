"""The readers of all parts of a mix: what draws give, and who stands in for whom."""

from collections.abc import Iterable, Sequence

from orchestrator.data.bad import BadSamples
from orchestrator.data.blocks import Allocate
from orchestrator.data.pool import Draw, Part
from orchestrator.data.reader import Read, Reader, View


class Readers:
    """A reader for each part.

    Args:
        parts: in the order of their numbers.
        cache_dir, cache_bytes, view, bad, sources, allocate: as for ``Reader``.
        memory_bytes: likewise, of each.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        cache_dir: str | None,
        cache_bytes: int,
        memory_bytes: int,
        view: View | None,
        bad: BadSamples | None,
        sources: int,
        allocate: Allocate,
    ) -> None:
        self._may_be_bad = bad is not None
        self._readers = [
            Reader(
                part.index,
                cache_dir=cache_dir,
                cache_bytes=cache_bytes,
                memory_bytes=memory_bytes,
                view=view,
                bad=bad,
                sources=sources,
                allocate=allocate,
            )
            for part in parts
        ]

    def read(self, draws: Sequence[Draw], *, windows: Sequence[float]) -> list[Read]:
        """The samples of draws, those of one part at once; ``windows`` places that of each."""
        read: dict[int, Read] = {}
        for part in dict.fromkeys(draw.part for draw in draws):
            places = [place for place, draw in enumerate(draws) if draw.part == part]
            some = self._readers[part].read_all(
                [draws[place].row for place in places], draws=[windows[place] for place in places]
            )
            read.update(zip(places, some, strict=True))
        return [read[place] for place in range(len(draws))]

    def instead(self, draws: Sequence[Draw], *, read: Sequence[Read]) -> tuple[str | None, ...]:
        """Keys of the drawn samples that others were read for; None for those that were read."""
        if not self._may_be_bad:
            return (None,) * len(draws)
        return tuple(
            self._readers[draw.part].instead(draw.row, read=sample)
            for draw, (sample, _) in zip(draws, read, strict=True)
        )

    def close(self) -> None:
        """Keeps no shard open, and fetches none ahead; what is read later is opened anew."""
        for reader in self._readers:
            reader.close()

    def fetch_ahead(self, draws: Iterable[Draw]) -> None:
        """Says what will be read soon, see ``Reader.fetch_ahead``."""
        rows: dict[int, list[int]] = {}
        for draw in draws:
            rows.setdefault(draw.part, []).append(draw.row)
        for part, some in rows.items():
            self._readers[part].fetch_ahead(some)
