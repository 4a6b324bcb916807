"""Plug-ins for tests, named in configurations as ``tests.data.prepare.models:...``."""

from collections.abc import Sequence

from orchestrator.data.prepare.plugins import Look, Said


class Redness:
    """Scores how red a clip is, times a factor."""

    def __init__(self, *, factor: float = 1.0) -> None:
        self._factor = factor

    def __call__(self, looks: Sequence[Look]) -> list[Said]:
        return [Said(scores={"red": self._red(look)}) for look in looks]

    def _red(self, look: Look) -> float:
        red, green, blue = look.frames_THWC.reshape(-1, 3).mean(0)
        return self._factor * float(red / (red + green + blue))


class Teller:
    """Says what it was shown."""

    def __call__(self, looks: Sequence[Look]) -> list[Said]:
        return [
            Said(captions=[f"{len(one.frames_THWC)} frames, said: {' '.join(one.captions)}"])
            for one in looks
        ]


class Nervous:
    """Fails on clips with a name."""

    def __call__(self, looks: Sequence[Look]) -> list[Said]:
        for look in looks:
            if look.key.startswith("b"):
                raise RuntimeError("does not like b\nat all")
        return [Said(scores={"calm": 1.0}) for _ in looks]


class Tired:
    """Fails on the second call for a video, that is on its clips from the 17th on."""

    def __call__(self, looks: Sequence[Look]) -> list[Said]:
        if looks[0].key.endswith("-00016"):
            raise RuntimeError("too much")
        return [Said(scores={"calm": 1.0}) for _ in looks]


class Sloppy:
    """Answers too little."""

    def __call__(self, looks: Sequence[Look]) -> list[Said]:
        return [Said(scores={"other": 1.0}) for _ in looks]
