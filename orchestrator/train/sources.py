"""The stream of clips or latents that a training stage reads."""

from models.sora.dit_config import DiTConfig
from orchestrator.data.index import Index
from orchestrator.data.stream import Packing, Stream
from orchestrator.errors import UserError
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.storage.store import join_uri
from orchestrator.train.job import StageJob
from orchestrator.train.randomness import seed_of
from orchestrator.train.ranks import Ranks
from orchestrator.train.views import view_of

LATENTS = "latents"  # folder of an encode stage's shards


def latents_uri(run: str, *, stage: str) -> str:
    """Where an encode stage keeps its shards."""
    return join_uri(run, "stages", stage, LATENTS)


def open_stream(job: StageJob, *, ranks: Ranks) -> Stream:
    """This rank's part of the endless, deterministic stream of a training stage."""
    stage = job.spec
    train = stage.training
    data = job.recipe.data
    uri = latents_uri(job.run, stage=stage.latents) if stage.latents else data.train.uri
    return Stream(
        Index.open(uri),
        seed=seed_of(job.recipe.seed, stage.id, "order"),
        batch=train.batch,
        rank=ranks.rank,
        world_size=ranks.world_size,
        cache_dir=data.cache_dir,
        cache_bytes=data.cache_bytes,
        memory_bytes=data.memory_bytes,
        view=view_of(job.recipe, stage),
        captions=train.reads_captions,
        packing=(
            Packing(share=train.packed_images, images=train.clip.frames)
            if train.packed_images
            else None
        ),
    )


def check_clips(recipe: Recipe, index: Index, *, uri: str) -> None:
    """Raises UserError unless every shape bucket of the clips fits every network that sees it."""
    for stage in recipe.stages:
        if stage.train is None:
            continue
        for frames, height, width in index.buckets:
            _check_bucket(recipe, stage, (frames, height, width), uri=uri)


def _check_bucket(recipe: Recipe, stage: Stage, bucket: tuple[int, int, int], *, uri: str) -> None:
    train = stage.training
    frames, *size = bucket
    field = f"data.train.uri={uri}: clips of {frames}x{size[0]}x{size[1]}"
    if view_of(recipe, stage) is not None:
        _check_view(stage, bucket, field=field)
        return
    model = recipe.autoencoder_config(stage) if stage.latents else train.autoencoder
    if (frames - 1) % model.time_factor:
        raise UserError(f"{field}, wanted {model.time_factor}k+1 frames for stage {stage.id}")
    space = model.space_factor
    patch = train.model.patch if isinstance(train.model, DiTConfig) else (1, 1, 1)
    if ((frames - 1) // model.time_factor + 1) % patch[0]:
        raise UserError(
            f"{field}, wanted a multiple of {patch[0]} latent frames for stage {stage.id}"
        )
    for side, step in zip(size, (space * patch[1], space * patch[2]), strict=True):
        if side % step:
            raise UserError(f"{field}, wanted sides in multiples of {step} for stage {stage.id}")


def _check_view(stage: Stage, bucket: tuple[int, int, int], *, field: str) -> None:
    """Clips of pixel networks are resized, so they must be large enough and of the same shape."""
    clip = stage.training.clip
    frames, *size = bucket
    if frames < clip.frames:
        raise UserError(f"{field}, wanted at least {clip.frames} frames for stage {stage.id}")
    smaller = any(have < want for have, want in zip(size, clip.size, strict=True))
    if smaller or size[0] * clip.size[1] != size[1] * clip.size[0]:
        raise UserError(
            f"{field}, wanted at least {clip.size[0]}x{clip.size[1]} and its aspect for stage "
            f"{stage.id}"
        )
