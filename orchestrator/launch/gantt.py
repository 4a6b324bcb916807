"""When the stages of a plan run, as bars: in text and as a picture."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from orchestrator.launch.plan_tables import span
from orchestrator.plan.plan import RunPlan, StagePlan

_COLUMNS = 60
_ROW, _BAR, _LEFT, _WIDTH, _EDGE = 26, 16, 220, 760, 20  # pixels
_CRITICAL, _OTHER, _INK, _GRID = (200, 80, 40), (70, 110, 170), (30, 30, 30), (225, 225, 225)
_TICKS = 5


def draw(plan: RunPlan) -> Iterator[str]:
    """A line per stage: # where it decides when the run ends, = where it does not."""
    if not plan.seconds:
        return
    longest = max(len(stage.stage) for stage in plan.stages)
    yield f"{'':<{longest}}  0{span(plan.seconds):>{_COLUMNS - 1}}"
    for stage in plan.stages:
        first, last = _ends(stage, plan, columns=_COLUMNS)
        bar = ("#" if stage.slot.critical else "=") * max(1, last - first)
        yield f"{stage.stage:<{longest}} |{' ' * first}{bar:<{_COLUMNS - first}}| {_length(stage)}"
    critical = " -> ".join(stage.stage for stage in _critical(plan))
    yield f"critical path: {critical}, {span(plan.seconds)}"


def _critical(plan: RunPlan) -> list[StagePlan]:
    found = [stage for stage in plan.stages if stage.slot.critical]
    return sorted(found, key=lambda stage: stage.slot.start)


def _ends(stage: StagePlan, plan: RunPlan, *, columns: int) -> tuple[int, int]:
    """First column and the one after the last."""
    first = int(stage.slot.start / plan.seconds * columns)
    last = round(stage.slot.end / plan.seconds * columns)
    return min(first, columns - 1), max(last, first + 1)


def _length(stage: StagePlan) -> str:
    return f"{span(stage.seconds)} on {stage.ranks}"


def write_png(plan: RunPlan, path: Path) -> None:
    """The same as a picture.

    Raises:
        OSError: if it cannot be written.
    """
    height = (len(plan.stages) + 2) * _ROW + 2 * _EDGE
    picture = Image.new("RGB", (_LEFT + _WIDTH + 160 + _EDGE, height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=13)
    title = f"{plan.recipe} on {plan.gpu}: {span(plan.seconds)}"
    pen.text((_EDGE, _EDGE - 8), title, fill=_INK, font=font)
    total = plan.seconds or 1.0
    for tick in range(_TICKS + 1):
        x = _LEFT + _WIDTH * tick // _TICKS
        pen.line((x, _EDGE + _ROW, x, height - _EDGE), fill=_GRID)
        pen.text((x - 12, _EDGE + _ROW - 18), span(total * tick / _TICKS), fill=_INK, font=font)
    for row, stage in enumerate(plan.stages, start=1):
        top = _EDGE + row * _ROW + 6
        first, last = (
            _LEFT + int(_WIDTH * at / total) for at in (stage.slot.start, stage.slot.end)
        )
        color = _CRITICAL if stage.slot.critical else _OTHER
        pen.rectangle((first, top, max(last, first + 2), top + _BAR), fill=color)
        pen.text((_EDGE, top), stage.stage, fill=_INK, font=font)
        pen.text((max(last, first + 2) + 6, top), _length(stage), fill=_INK, font=font)
    picture.save(path)
