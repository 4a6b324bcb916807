"""The order of stages and the digest of what each one is made from."""

from collections.abc import Mapping

from orchestrator.recipe.data import MixedSource
from orchestrator.recipe.digest import canonical, sampling_identity, sha256, stage_identity
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage


def stage_graph(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Stage id -> ids of the stages that it needs, in an order that can be run."""
    return {stage.id: recipe.needs(stage) for stage in recipe.stages}


def stages_after(recipe: Recipe) -> dict[str, int]:
    """Stage id -> stages in the longest chain of those that wait for it, one after another."""
    after = {stage.id: 0 for stage in recipe.stages}
    for stage in reversed(recipe.stages):
        for needed in recipe.needs(stage):
            after[needed] = max(after[needed], after[stage.id] + 1)
    return after


def input_digest(recipe: Recipe, stage: Stage, *, data: Mapping[str, str]) -> str:
    """Sha256 over everything that decides a stage's result.

    Args:
        recipe: the whole recipe.
        stage: one of its stages.
        data: digests of the data indexes by field: ``{"train": ..., "eval": ...}``.
    """
    above = {
        needed: input_digest(recipe, recipe.stage(needed), data=data)
        for needed in recipe.needs(stage)
    }
    identity = {
        "stage": stage_identity(stage),
        "needs": above,
        "data": {name: data[name] for name in recipe.reads(stage)},
        "seed": recipe.seed,
        "text": recipe.text.model_dump(mode="json"),
    }
    weights = {
        name: source.weight
        for name in recipe.reads(stage)
        if isinstance(source := recipe.data.sources[name], MixedSource)
    }
    if weights:
        identity["weights"] = weights
    if stage.evaluate is not None:
        identity["samplers"] = {
            one: sampling_identity(recipe.stage(one)) for one in recipe.needs(stage)
        }
    if stage.upsamples is not None:
        clip = recipe.stage(stage.upsamples).training.clip
        identity["upsamples"] = clip.model_dump(mode="json")
    if recipe.pair is not None:
        identity["pair"] = recipe.pair.model_dump(mode="json")
    return sha256(canonical(identity))
