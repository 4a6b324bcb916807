"""The stream of clips or latents that a training stage reads."""

from collections.abc import Mapping

from models.sora.dit_config import DiTConfig
from orchestrator.data.bad import BadSamples
from orchestrator.data.index import Index
from orchestrator.data.packing import Packing
from orchestrator.data.pool import Part, shapes_of
from orchestrator.data.stream import Stream
from orchestrator.errors import UserError
from orchestrator.recipe.data import IMAGES, MixedSource, Source
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.train.budget import multiples
from orchestrator.train.job import StageJob
from orchestrator.train.latents import latents_uri
from orchestrator.train.randomness import seed_of
from orchestrator.train.ranks import Ranks
from orchestrator.train.transfer import allocate_for
from orchestrator.train.views import view_of


def open_stream(job: StageJob, *, ranks: Ranks) -> Stream:
    """This rank's part of the endless, deterministic stream of a training stage."""
    stage = job.spec
    train = stage.training
    data = job.recipe.data
    packing = None
    if train.packed_images:
        images = images_of(job.recipe, stage)
        packing = Packing(share=train.packed_images, images=train.clip.frames, parts=images)
    parts = clips_of(job.recipe, stage, run=job.run)
    return Stream(
        parts,
        seed=seed_of(job.recipe.seed, stage.id, "order"),
        batch=train.batch,
        rank=ranks.reader,
        world_size=ranks.readers,
        multiples=multiples(job.recipe, stage, buckets=shapes_of(parts)),
        shuffle_shards=data.shuffle_shards,
        workers=data.workers,
        cache_dir=data.cache_dir,
        cache_bytes=data.cache_bytes,
        memory_bytes=data.memory_bytes,
        view=view_of(job.recipe, stage),
        captions=train.reads_captions,
        bad=BadSamples(most=data.bad_samples) if data.bad_samples else None,
        packing=packing,
        allocate=allocate_for(ranks.device),
    )


def clips_of(recipe: Recipe, stage: Stage, *, run: str) -> tuple[Part, ...]:
    """What a training stage draws its batches from: sources, or latents in the run's folder.

    Latents of a mix are mixed as it is.
    """
    sources = recipe.data.parts(recipe.fields_of(stage)[0])
    if stage.latents is None:
        return _parts(sources)
    encoded: dict[str, Source] = {}
    for name, source in sources.items():
        uri = latents_uri(run, stage=stage.latents, part=name)
        encoded[name] = source.model_copy(update={"uri": uri})
    return _parts(encoded)


def images_of(recipe: Recipe, stage: Stage) -> tuple[Part, ...]:
    """What a stage draws independent images from; empty if that is its clips or nothing."""
    fields = recipe.fields_of(stage)
    if stage.training.packed_images and len(fields) > 1:
        return _parts(recipe.data.parts(fields[-1]))
    return ()


def _parts(sources: Mapping[str, Source]) -> tuple[Part, ...]:
    """By name: their order decides the order of clips, and that of a recipe's lines must not."""
    return tuple(
        Part(
            name=name,
            index=Index.open(source.uri),
            weight=source.weight if isinstance(source, MixedSource) else 1.0,
        )
        for name, source in sorted(sources.items())
    )


def check_clips(recipe: Recipe, indexes: Mapping[str, Index]) -> None:
    """Raises UserError unless every network that sees the clips finds what it wants of them.

    That is a shape that fits in every bucket, and a caption where captions are read.

    Args:
        recipe: the whole recipe.
        indexes: of its sources, by field of ``data``.
    """
    uncaptioned = {name: index.uncaptioned for name, index in indexes.items()}
    for stage in recipe.stages:
        if _reads_captions(recipe, stage):
            for name in recipe.reads(stage):
                _check_captions(recipe, stage, name=name, uncaptioned=uncaptioned[name])
        if stage.train is None:
            continue
        for name in recipe.reads(stage):
            for frames, height, width in indexes[name].buckets:
                _check_bucket(recipe, stage, (frames, height, width), name=name)


def _reads_captions(recipe: Recipe, stage: Stage) -> bool:
    """Whether a stage looks at the captions of clips; digits are made from prompts."""
    if stage.evaluate is None:
        return stage.train is not None and stage.train.reads_captions
    if stage.evaluate.metric == "digits":
        return False
    links = recipe.chain(stage.evaluate.model, distilled=stage.evaluate.distilled)
    if stage.evaluate.metric == "upsamplers":
        links = tuple(link for link in links if link.upsamples is not None)
    return any(link.training.reads_captions for link in links)


def _check_captions(recipe: Recipe, stage: Stage, *, name: str, uncaptioned: int) -> None:
    if uncaptioned:
        raise UserError(
            f"data.{name}.uri={recipe.data.sources[name].uri}: seen {uncaptioned} without a "
            f"caption, wanted one each for stage {stage.id}"
        )


def _check_bucket(recipe: Recipe, stage: Stage, bucket: tuple[int, int, int], *, name: str) -> None:
    train = stage.training
    frames, *size = bucket
    uri = recipe.data.sources[name].uri
    field = f"data.{name}.uri={uri}: clips of {frames}x{size[0]}x{size[1]}"
    if view_of(recipe, stage) is not None:
        wanted = 1 if name.split(".")[0] == IMAGES else train.clip.frames
        _check_view(stage, bucket, frames=wanted, field=field)
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


def _check_view(stage: Stage, bucket: tuple[int, int, int], *, frames: int, field: str) -> None:
    """Clips of pixel networks are resized, so they must be large enough and of the same shape."""
    clip = stage.training.clip
    stored, *size = bucket
    if stored < frames:
        raise UserError(f"{field}, wanted at least {frames} frames for stage {stage.id}")
    smaller = any(have < want for have, want in zip(size, clip.size, strict=True))
    if smaller or size[0] * clip.size[1] != size[1] * clip.size[0]:
        raise UserError(
            f"{field}, wanted at least {clip.size[0]}x{clip.size[1]} and its aspect for stage "
            f"{stage.id}"
        )
