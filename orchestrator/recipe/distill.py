"""What a recipe says about one round of distillation, and what it leaves to the teacher."""

from typing import Any, Literal, Self

from pydantic import PositiveInt, model_validator

from models.config import Strict
from models.diffusion.config import GuidanceConfig
from orchestrator.recipe.fields import Slug
from orchestrator.recipe.tree import Tree, is_list, is_mapping

_TAKEN_OVER = ("train", "upsamples", "pair", "prior", "compute", "save")


class Distill(Strict):
    """A student learns its teacher's guided output (phase 1), or two of its steps as one (2).

    Exactly one of ``guidance`` and ``steps`` is given. Phase 1 comes first, then rounds of
    phase 2 that halve the steps. ``train`` of the stage is completed from the teacher's.

    Source: Ho et al. 2022 (Imagen Video), arXiv:2210.02303, section 2.7; weighting: Salimans and
    Ho 2022, arXiv:2202.00512, equations 9 and 10 (see ``DistillationConfig``).
    """

    teacher: Slug
    guidance: GuidanceConfig | None = None  # phase 1: what the student takes over
    steps: PositiveInt | None = None  # phase 2: sampling steps of the student
    weighting: Literal["truncated_snr", "snr_plus_one"] = "truncated_snr"

    @model_validator(mode="after")
    def _is_one_phase(self) -> Self:
        if (self.guidance is None) == (self.steps is None):
            raise ValueError("distill wants exactly one of guidance (phase 1) and steps (phase 2)")
        if self.guidance is not None and self.guidance.oscillation is not None:
            raise ValueError(
                "distill.guidance.oscillation differs from step to step, wanted null to distil"
            )
        return self


def complete(tree: Tree) -> Tree:
    """A recipe's tree in which every distill stage has all fields that its teacher decides.

    What the stage says itself stays; a complete tree comes back as it is. Trees that are not
    shaped like a recipe come back as they are, for the schema to refuse.

    Raises:
        ValueError: one line, if a teacher is not there.
    """
    stages = tree.get("stages")
    if not is_list(stages):
        return tree
    known: dict[Any, Tree] = {}
    completed: list[Any] = []
    for stage in stages:
        whole = _completed(stage, known) if is_mapping(stage) else stage
        completed.append(whole)
        if is_mapping(whole) and isinstance(whole.get("id"), str):
            known[whole["id"]] = whole
    return {**tree, "stages": completed}


def _completed(stage: Tree, known: dict[Any, Tree]) -> Tree:
    distill = stage.get("distill")
    if not is_mapping(distill):
        return stage
    teacher = known.get(distill.get("teacher"))
    if teacher is None or not is_mapping(teacher.get("train")):
        raise ValueError(
            f"stages.{stage.get('id')}.distill.teacher={distill.get('teacher')}, wanted an earlier "
            "stage that trains a network"
        )
    inherited = {name: teacher[name] for name in _TAKEN_OVER if name in teacher}
    train = dict(teacher["train"])
    train["sampler"] = _sampler(train.get("sampler"), distill)
    if is_mapping(train.get("optim")):  # a student takes over all layers, not some from images
        train["optim"] = {**train["optim"], "spatial_lr_ratio": 1.0}
    return _merged({**inherited, "train": train}, stage)


def _sampler(teacher: Any, distill: Tree) -> Tree:
    """The teacher's without guidance, which the student has taken over; phase 2: in its steps."""
    kept = ("shift", "threshold", "percentile")
    given = teacher if is_mapping(teacher) else {}
    sampler: Tree = {"kind": "ddim", "steps": given.get("steps", 50)}
    sampler |= {name: given[name] for name in kept if name in given}
    if distill.get("steps") is not None:
        sampler["steps"] = distill["steps"]
    return sampler


def _merged(below: Tree, above: Tree) -> Tree:
    """``above`` over ``below``, mapping by mapping."""
    out = dict(below)
    for name, value in above.items():
        under = out.get(name)
        if is_mapping(under) and is_mapping(value):
            value = _merged(under, value)
        out[name] = value
    return out
