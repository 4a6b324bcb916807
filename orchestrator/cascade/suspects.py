"""Who holds a gang up, told from the ranks' beats alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Heard:
    """A rank's last beat.

    Attributes:
        beat: as ``orchestrator.train.beat`` makes it.
        age_s: since it arrived.
    """

    beat: Mapping[str, Any]
    age_s: float


@dataclass(frozen=True)
class Verdict:
    """Ranks that hold their gang up.

    Attributes:
        kind: ``silent`` ones don't beat any more; ``stuck`` ones beat, but no step ends.
        ranks: of these.
        why: one line, without names.
    """

    kind: Literal["silent", "stuck"]
    ranks: tuple[int, ...]
    why: str


def judge(
    heard: Mapping[int, Heard], *, ranks: int, silent_s: float, hang_after_s: float
) -> Verdict | None:
    """The verdict on a gang, if there is one.

    Silence is judged rank by rank. Ranks are stuck only if every one of them beats and has been
    in the same step for ``hang_after_s``, saves and previews not counted.

    Args:
        heard: last beats by rank; ranks that have not begun, or have ended, are not in it.
        ranks: size of the gang.
        silent_s: a beat that is older means silence.
        hang_after_s: see ``Compute``.
    """
    silent = tuple(rank for rank, one in sorted(heard.items()) if one.age_s >= silent_s)
    if silent:
        why = f"no sign of life for {min(heard[rank].age_s for rank in silent):.0f} s"
        others = {rank: one for rank, one in heard.items() if rank not in silent}
        where = _wait({rank: one.beat["collective"] for rank, one in others.items()})
        if where is not None:
            why += f"; the others wait in {where}"
        return Verdict(kind="silent", ranks=silent, why=why)
    if len(heard) < ranks or not all(
        one.beat["in_step_s"] >= hang_after_s for one in heard.values()
    ):
        return None
    stuck_s = min(one.beat["in_step_s"] for one in heard.values())
    culprits, where = _outside({rank: one.beat["collective"] for rank, one in heard.items()})
    return Verdict(
        kind="stuck", ranks=culprits, why=f"no rank has ended a step for {stuck_s:.0f} s; {where}"
    )


def _outside(last: Mapping[int, Mapping[str, Any] | None]) -> tuple[tuple[int, ...], str]:
    """Ranks that are not in the collective that the others wait in; all if nobody else is."""
    everyone = tuple(sorted(last))
    waiting = {
        rank: one["number"] for rank, one in last.items() if one is not None and not one["returned"]
    }
    if not waiting:
        return everyone, "none of them waits in a collective"
    number = max(waiting.values())
    outside = tuple(rank for rank in everyone if waiting.get(rank) != number)
    where = _wait(last)
    if outside:
        return outside, f"the others wait in {where}"
    return everyone, f"all ranks wait in the same {where}"


def _wait(last: Mapping[int, Mapping[str, Any] | None]) -> str | None:
    """The collective that the furthest of those ranks wait in, if any does."""
    waiting = [one for one in last.values() if one is not None and not one["returned"]]
    return collective_text(max(waiting, key=lambda one: one["number"])) if waiting else None


def collective_text(last: Mapping[str, Any] | None) -> str:
    """``all_reduce #412 [[1024]] Float``."""
    if last is None:
        return "collective (unknown)"
    text = f"{last.get('name', 'collective')} #{last['number']}"
    if "shapes" in last:
        text += f" {_short(last['shapes'])} {', '.join(sorted(set(last['dtypes'])))}".rstrip()
    return text


def _short(shapes: Sequence[Sequence[int]]) -> str:
    shown = ", ".join(str(list(shape)) for shape in shapes[:3])
    return f"{shown}, ... ({len(shapes)} tensors)" if len(shapes) > 3 else shown
