"""How long runs took to come back: what tests measured, as a table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.launch.recovery import PARTS

_WIDTH = 56


@dataclass(frozen=True)
class Recoveries:
    """What a session has measured: seconds by part, by what was broken; kept in a file."""

    path: Path
    seconds: dict[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])


KEY = pytest.StashKey[Recoveries]()


def table(recoveries: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One line each; a part that the user takes (who starts a command again) stays empty."""
    names = [*PARTS, "all"]
    lines = ["seconds".ljust(_WIDTH) + "".join(f"{name:>11}" for name in names)]
    for what, parts in recoveries.items():
        seconds = {**parts, "all": sum(parts.values())}
        cells = (f"{seconds[name]:.1f}" if name in seconds else "" for name in names)
        lines.append(what.ljust(_WIDTH) + "".join(f"{cell:>11}" for cell in cells))
    return lines
