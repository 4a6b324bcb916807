"""The log of clips that a stage was trained on: a piece of it goes with every checkpoint."""

import uuid
from collections.abc import Iterator

from orchestrator.data.batch import StepBatch
from orchestrator.data.usage import Head, Part, Use, use_of
from orchestrator.errors import UserError
from orchestrator.storage.store import Store
from orchestrator.train.exchange import gather_json
from orchestrator.train.ranks import Ranks

FOLDER = "audit"


class Audit:
    """What this rank trained on since the last checkpoint that was committed.

    A checkpoint names its piece, and a piece the one before it: from a checkpoint back they are the
    steps that its weights come from, each once. What a lost gang had trained on beyond its last
    commit, or a rewind undid, is in none of them.

    Args:
        folder: key of the stage's folder.
        ranks: this process and its peers.
    """

    def __init__(self, folder: str, *, ranks: Ranks) -> None:
        self._folder = folder
        self._ranks = ranks
        self._token: str | None = None  # of the gang
        self._pieces = 0  # that it has named
        self._before: str | None = None
        self._start = 0  # steps done with the piece before
        self._uses: list[Use] = []
        self._named: tuple[str, int] = "", 0  # the last one, and the steps done with it

    def resume(self, piece: str | None, *, step: int) -> None:
        """Goes on behind the piece of a checkpoint; collective.

        Args:
            piece: what the checkpoint says; None if it says none, or there is no checkpoint.
            step: steps done.
        """
        if self._token is None:
            mine = uuid.uuid4().hex[:8]
            self._token = gather_json(mine, device=self._ranks.device)[0]
        self._before, self._start, self._uses = piece, step, []

    def took(self, batch: StepBatch) -> None:
        """Puts down the clips of a step."""
        self._uses.append(use_of(batch))

    def piece(self, step: int) -> str:
        """Names the piece that goes with the checkpoint of a step: the same on every rank."""
        self._pieces += 1
        self._named = f"step-{step:08d}-{self._token}-{self._pieces:04d}", step
        return self._named[0]

    def copy(self) -> dict[str, bytes]:
        """This rank's part of the piece that was named last, by its key in the run's folder.

        Of ranks that share the tokens of their clips, the first puts them down for all.
        """
        if not self._ranks.is_first_reader:
            return {}
        name, step = self._named
        rank, world_size = self._ranks.reader, self._ranks.readers
        head = Head(
            before=self._before,
            start=self._start,
            stop=step,
            rank=rank,
            world_size=world_size,
        )
        part = Part(head=head, uses=tuple(self._uses))
        key = f"{self._folder}/{FOLDER}/{name}/rank-{rank:05d}-of-{world_size:05d}.jsonl"
        return {key: part.to_bytes()}

    def committed(self) -> None:
        """What goes with the checkpoint that was named last is in storage for good."""
        self._before, self._start = self._named
        self._uses = [use for use in self._uses if use.step > self._start]


def read_pieces(store: Store, folder: str, *, last: str, stop: int) -> Iterator[list[Part]]:
    """Every rank's part of every piece, from the last piece back to the first.

    Args:
        store: where the run is.
        folder: key of the stage's folder.
        last: the piece that a checkpoint names.
        stop: steps done with it.

    Raises:
        UserError: if a part is missing, damaged, or no part of this piece.
    """
    name: str | None = last
    while name is not None:
        prefix = f"{folder}/{FOLDER}/{name}/"
        where = f"{store.uri}/{prefix}"
        parts = [_read_part(store, key) for key in sorted(store.list(prefix))]
        if not parts:
            raise UserError(f"{where}: not there, wanted the audit of the steps up to {stop}")
        head = parts[0].head
        wanted = [
            Head(
                before=head.before,
                start=head.start,
                stop=stop,
                rank=rank,
                world_size=head.world_size,
            )
            for rank in range(head.world_size)
        ]
        if [part.head for part in parts] != wanted:
            seen = ", ".join(str(part.head.rank) for part in parts)
            raise UserError(
                f"{where}: parts of ranks {seen}, wanted one of each of {head.world_size} that "
                f"end with step {stop}"
            )
        yield parts
        name, stop = head.before, head.start


def _read_part(store: Store, key: str) -> Part:
    try:
        return Part.parse(store.get(key))
    except ValueError as error:
        why = str(error).splitlines()[0]
        raise UserError(f"{store.uri}/{key}: damaged ({why}), wanted it as written") from None
