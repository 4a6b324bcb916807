"""A rank's pulse while it trains a stage: its clock, the timing of its collectives, its beat."""

import platform
import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass

from orchestrator.train.beat import Beat
from orchestrator.train.collectives import can_be_timed, timed
from orchestrator.train.exchange import gather_json
from orchestrator.train.hooks import Hooks
from orchestrator.train.job import StageJob
from orchestrator.train.ledger import Ledger, process_ledger
from orchestrator.train.ranks import Ranks


@dataclass(frozen=True)
class Pulse:
    """What one rank shows of itself.

    Attributes:
        ledger: its clock.
        beat: its heartbeat.
        nodes: the host name of every rank.
    """

    ledger: Ledger
    beat: Beat
    nodes: Sequence[str]


@contextmanager
def taking_pulse(hooks: Hooks, *, job: StageJob, ranks: Ranks) -> Iterator[Pulse]:
    """Beats within it; collective at its start, and to be entered before an engine is built."""
    own = {"gang": secrets.token_hex(4), "node": platform.node()}
    members = gather_json(own, device=ranks.device)
    with process_ledger() as ledger, timed(ledger) if can_be_timed() else nullcontext():
        beat = Beat(
            hooks,
            stage=job.stage,
            gang=members[0]["gang"],
            ranks=ranks,
            ledger=ledger,
            hang_after_s=job.spec.compute.hang_after_s,
        )
        with closing(beat):
            yield Pulse(ledger=ledger, beat=beat, nodes=[one["node"] for one in members])
