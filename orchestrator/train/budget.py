"""How many clips of each shape a step takes, so that all steps take equally long."""

from collections.abc import Iterable

from models.sora.dit_config import DiTConfig
from orchestrator.data.index import Bucket
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage


def multiples(recipe: Recipe, stage: Stage, *, buckets: Iterable[Bucket]) -> dict[Bucket, int]:
    """Times that a step of a shape takes ``batch`` clips, and a forward pass ``micro_batch``.

    With ``batch_by: tokens`` as often as the shape's tokens fit into those of ``clip``, at least
    once; a whole number, so that any world size that splits ``batch`` splits the step.

    Args:
        recipe: the whole recipe.
        stage: one that trains.
        buckets: shapes of its clips.
    """
    train = stage.training
    if train.batch_by == "clips":
        return dict.fromkeys(buckets, 1)
    largest = tokens(recipe, stage, bucket=(train.clip.frames, *train.clip.size))
    return {bucket: max(1, largest // tokens(recipe, stage, bucket=bucket)) for bucket in buckets}


def tokens(recipe: Recipe, stage: Stage, *, bucket: Bucket) -> int:
    """Patches of latents, or the latent positions of an autoencoder, of one clip."""
    train = stage.training
    model = recipe.autoencoder_config(stage) if stage.latents else train.autoencoder
    time, height, width = train.model.patch if isinstance(train.model, DiTConfig) else (1, 1, 1)
    frames = (bucket[0] - 1) // model.time_factor + 1
    high, wide = (side // model.space_factor for side in bucket[1:])
    return (frames // time) * (high // height) * (wide // width)
