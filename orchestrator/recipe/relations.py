"""Whether the stages of a recipe fit each other.

Every function raises ValueError in one line that begins with a field of the recipe.
"""

from models.config import Strict
from models.diffusion.config import DiffusionConfig, FlowConfig
from models.make_a_video.prior_config import PriorConfig
from models.nn.unet_config import UNetConfig
from models.sora.autoencoder_config import AutoencoderConfig
from models.sora.dit_config import DiTConfig
from models.text.pair_config import SmallPairConfig
from orchestrator.recipe.chain import Stages, chain, makes_clips, upsampling
from orchestrator.recipe.fits import check_geometry, check_patches, check_step, check_train
from orchestrator.recipe.sharing import check_sharing
from orchestrator.recipe.stage import Stage

# A network may begin with one that lacks these: fresh, they change nothing.
_ADDED = ("temporal_conv", "temporal_attention", "fps", "given_frames")
_OF_TIME = {"temporal_conv": "temporal_kernel", "temporal_attention": "max_distance"}
_FREE = (
    *_ADDED,
    *_OF_TIME.values(),
    "time_position",
    "dropout",
    "expected_std",
    "expected_mean",
)


def check_stage(stage: Stage, stages: Stages, *, has_pretrained_pair: bool) -> None:
    """Checks a stage against the earlier ones and those that it names."""
    if stage.encode is not None:
        _expect(stages, stage.encode.autoencoder, AutoencoderConfig, f"{_name(stage)}.autoencoder")
    if stage.evaluate is not None:
        _check_evaluate(stage, stages)
    if stage.compute.sequence_parallel > 1:
        check_sharing(stage)
    if stage.train is None:
        return
    try:
        check_train(stage.train)
    except ValueError as error:
        raise ValueError(f"{_name(stage)}.train.{error}") from error
    _check_latents(stage, stages)
    _check_start(stage, stages)
    _check_pair(stage, stages, has_pretrained_pair=has_pretrained_pair)
    _check_cascade(stage, stages)
    _check_prior(stage, stages)
    if stage.distill is not None:
        _check_distill(stage, stages)


def _name(stage: Stage) -> str:
    return f"stages.{stage.id}"


def _expect(stages: Stages, stage_id: str, kind: type[Strict], field: str) -> None:
    train = stages[stage_id].train
    if train is None or not isinstance(train.model, kind):
        raise ValueError(f"{field}={stage_id}, wanted a stage that trains a {kind.__name__}")


def _check_evaluate(stage: Stage, stages: Stages) -> None:
    spec = stage.evaluate
    assert spec is not None
    field = f"{_name(stage)}.evaluate.model"
    if spec.metric == "prior":
        _expect(stages, spec.model, PriorConfig, field)
    elif spec.metric == "digits":
        _check_sampled(stage, stages)
    elif stages[spec.model].upsamples is None:
        raise ValueError(f"{field}={spec.model}, wanted a stage that upsamples another")
    if spec.perceptual is not None and spec.metric != "upsamplers":
        raise ValueError(f"{_name(stage)}.evaluate.perceptual belongs to metric=upsamplers")
    if spec.distilled and spec.metric != "digits":
        raise ValueError(f"{_name(stage)}.evaluate.distilled=true belongs to metric=digits")


def _check_sampled(stage: Stage, stages: Stages) -> None:
    spec = stage.evaluate
    assert spec is not None
    if not makes_clips(stages[spec.model]):
        raise ValueError(
            f"{_name(stage)}.evaluate.model={spec.model}, wanted a stage that trains a denoiser of "
            "clips"
        )
    links = chain(stages, spec.model, distilled=spec.distilled)
    if links[0].prior is None and any(_reads_embeddings(link) for link in links):
        raise ValueError(
            f"{_name(links[0])}.prior=None, wanted the stage that trains a prior: {stage.id} "
            f"samples {spec.model} from captions, and only a prior makes embeddings of them"
        )


def _reads_embeddings(stage: Stage) -> bool:
    model = stage.training.model
    return isinstance(model, UNetConfig) and model.image_embedding is not None


def _check_latents(stage: Stage, stages: Stages) -> None:
    train = stage.training
    if not isinstance(train.model, DiTConfig):
        if stage.latents is not None:
            raise ValueError(f"{_name(stage)}.latents belongs to model.kind=video_dit")
        return
    if stage.latents is None:
        raise ValueError(f"{_name(stage)}.latents is missing, wanted an encode stage's id")
    encode = stages[stage.latents].encode
    if encode is None:
        raise ValueError(f"{_name(stage)}.latents={stage.latents}, wanted an encode stage")
    autoencoder = stages[encode.autoencoder].training.autoencoder
    try:
        check_geometry(train.clip, autoencoder=autoencoder)
        check_patches(train.clip, autoencoder=autoencoder, dit=train.model)
        if train.image_share and train.model.patch[0] > 1:
            raise ValueError(
                f"image_share={train.image_share} with model.patch={list(train.model.patch)}: "
                "an image is one latent frame, wanted patch[0]=1 or image_share=0"
            )
    except ValueError as error:
        raise ValueError(f"{_name(stage)}.train.{error}") from error


def _check_start(stage: Stage, stages: Stages) -> None:
    ratio, model = stage.training.optim.spatial_lr_ratio, stage.training.model
    if ratio != 1.0 and (stage.starts_from is None or not isinstance(model, UNetConfig)):
        raise ValueError(
            f"{_name(stage)}.train.optim.spatial_lr_ratio={ratio}, wanted 1.0 unless a U-Net takes "
            "layers over from another stage (starts_from)"
        )
    if stage.starts_from is None:
        return
    field = f"{_name(stage)}.starts_from"
    _expect(stages, stage.starts_from, type(model), field)
    trained = _purpose(stages[stage.starts_from])
    for name, seen in _purpose(stage).items():
        if seen != trained[name]:
            raise ValueError(
                f"{field}={stage.starts_from} has {name}={trained[name]}, seen {seen} here"
            )
    if not isinstance(model, UNetConfig):
        return
    start = stages[stage.starts_from].training.unet
    if model.model_dump(exclude=set(_FREE)) != start.model_dump(exclude=set(_FREE)):
        raise ValueError(
            f"{field}={stage.starts_from}, wanted the same model but for {', '.join(_FREE)}"
        )
    for name in _ADDED:
        mine, theirs = getattr(model, name), getattr(start, name)
        if not _keeps(mine, theirs):
            raise ValueError(
                f"{field}={stage.starts_from} has {name}={theirs}, wanted it here too: {mine}"
            )
    for layers, name in _OF_TIME.items():
        mine, theirs = getattr(model, name), getattr(start, name)
        if getattr(start, layers) and mine != theirs:
            raise ValueError(f"{field}={stage.starts_from} has {name}={theirs}, seen {mine} here")


def _purpose(stage: Stage) -> dict[str, str | None]:
    """What weights were trained for; for anything else they are worth little."""
    objective = stage.training.objective
    return {
        "objective.kind": objective.kind,
        "objective.schedule": getattr(objective, "schedule", None),
        "pair": stage.pair,
    }


def _keeps(mine: bool | tuple[int, ...], theirs: bool | tuple[int, ...]) -> bool:
    if isinstance(mine, tuple) and isinstance(theirs, tuple):
        return set(theirs) <= set(mine)
    return bool(mine) or not theirs


def _check_pair(stage: Stage, stages: Stages, *, has_pretrained_pair: bool) -> None:
    model = stage.training.model
    match model:
        case UNetConfig(image_embedding=int()) | PriorConfig():
            pass
        case _:
            if stage.pair is not None:
                raise ValueError(f"{_name(stage)}.pair: the network reads no image embedding")
            return
    if (stage.pair is not None) == has_pretrained_pair:
        raise ValueError(
            f"{_name(stage)}.pair={stage.pair}, wanted the stage that trains the pair, or a "
            "pretrained one as the recipe's pair, not both"
        )
    if stage.pair is None:
        return
    _expect(stages, stage.pair, SmallPairConfig, f"{_name(stage)}.pair")
    pair = stages[stage.pair].training.model
    assert isinstance(pair, SmallPairConfig)
    if isinstance(model, UNetConfig) and model.image_embedding != pair.embedding_width:
        raise ValueError(
            f"{_name(stage)}.train.model.image_embedding={model.image_embedding}, wanted "
            f"{pair.embedding_width}, the embedding_width of {stage.pair}"
        )
    tokens = pair.text.max_length // pair.text.stride
    if isinstance(model, PriorConfig) and model.text_tokens < tokens:
        raise ValueError(
            f"{_name(stage)}.train.model.text_tokens={model.text_tokens}, wanted at least "
            f"{tokens}, the longest caption of {stage.pair}"
        )


def _check_cascade(stage: Stage, stages: Stages) -> None:
    model = stage.training.model
    enlarges = isinstance(model, UNetConfig) and (model.low_resolution or model.given_frames)
    if enlarges != (stage.upsamples is not None):
        wanted = "the stage whose clips it enlarges" if enlarges else "null: it enlarges nothing"
        raise ValueError(f"{_name(stage)}.upsamples={stage.upsamples}, wanted {wanted}")
    if stage.upsamples is not None:
        _expect(stages, stage.upsamples, UNetConfig, f"{_name(stage)}.upsamples")
        try:
            check_step(stage.training, upsampling(stage, parent=stages[stage.upsamples]))
        except ValueError as error:
            raise ValueError(f"{_name(stage)}.train.{error}") from error


def _check_prior(stage: Stage, stages: Stages) -> None:
    """One embedding is read by a whole chain: what the prior of its first network makes."""
    field = f"{_name(stage)}.prior"
    if not _reads_embeddings(stage):
        if stage.prior is not None:
            raise ValueError(f"{field}={stage.prior}: the network reads no image embedding")
        return
    links = chain(stages, stage.id)
    first = next(link for link in links if _reads_embeddings(link))
    if stage.pair != first.pair:
        raise ValueError(
            f"{_name(stage)}.pair={stage.pair}, wanted {first.pair}, the pair of {first.id}, "
            "whose embedding it gets in sampling"
        )
    if stage.prior is None:
        return
    if stage.upsamples is not None:
        raise ValueError(
            f"{field}={stage.prior}, wanted null: the prior of {links[0].id} is the chain's"
        )
    _expect(stages, stage.prior, PriorConfig, field)
    if stages[stage.prior].pair != stage.pair:
        raise ValueError(
            f"{field}={stage.prior} has pair={stages[stage.prior].pair}, wanted {stage.pair}"
        )


def _check_distill(stage: Stage, stages: Stages) -> None:
    distill, train = stage.distill, stage.training
    assert distill is not None
    field = f"{_name(stage)}.distill"
    _expect(stages, distill.teacher, UNetConfig, f"{field}.teacher")
    teacher = stages[distill.teacher]
    for part in ("model", "objective", "clip"):
        if getattr(train, part) != getattr(teacher.training, part):
            raise ValueError(f"{_name(stage)}.train.{part} differs from the teacher's")
    objective = train.diffusion
    if objective.kind == "epsilon" or (
        isinstance(objective, DiffusionConfig) and objective.learned_variance
    ):
        raise ValueError(
            f"{field}.teacher={distill.teacher} predicts epsilon or a variance, "
            "wanted kind v, x0 or flow"
        )
    if train.sampler.guidance.scale != 1.0:
        raise ValueError(
            f"{_name(stage)}.train.sampler.guidance.scale={train.sampler.guidance.scale}, wanted "
            "1: a student has taken the guidance over"
        )
    if distill.steps is None:
        return
    if train.sampler.steps != distill.steps:
        raise ValueError(
            f"{_name(stage)}.train.sampler.steps={train.sampler.steps}, wanted "
            f"distill.steps={distill.steps}"
        )
    above = teacher.training.sampler.steps
    if above != 2 * distill.steps:
        raise ValueError(
            f"{field}.steps={distill.steps}, wanted half of its teacher's sampler.steps={above}"
        )
    shift, trained = train.sampler.shift, _shift(objective)
    if shift is not None and shift != trained:
        raise ValueError(
            f"{_name(stage)}.train.sampler.shift={shift}, wanted null or the objective's "
            f"{trained:g}: a student knows the steps that it was trained for and no others"
        )


def _shift(objective: FlowConfig | DiffusionConfig) -> float:
    return objective.shift if isinstance(objective, FlowConfig) else 1.0
