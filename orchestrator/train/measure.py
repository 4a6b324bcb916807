"""What a plan has to know of every stage, counted on the meta device."""

from collections.abc import Mapping
from math import prod

from models.config import RGB
from models.make_a_video.prior_config import PriorConfig
from models.nn.unet_config import UNetConfig
from models.sora.autoencoder_config import AutoencoderConfig
from models.sora.dit_config import DiTConfig
from models.text.pair_config import PretrainedPairConfig, SmallPairConfig
from models.text.widths import pair_widths
from orchestrator.plan.facts import Beside, Facts, Network, Passing, Training
from orchestrator.recipe.chain import makes_clips
from orchestrator.recipe.data import TRAIN
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.recipe.train import Train
from orchestrator.train import measured
from orchestrator.train.describe import describe, frames_made
from orchestrator.train.flops import TEACHER_PASSES
from orchestrator.train.frozen import frozen_pair, frozen_text, pair_of
from orchestrator.train.kept import Device
from orchestrator.train.measured import Shape

_TYPICAL_TOKENS = 64  # of a caption that a frozen encoder reads, for its FLOPs
_LATENT_BYTES = 2  # stored as float16


def measure(recipe: Recipe, *, device: Device = "cuda") -> dict[str, Facts]:
    """Facts by stage.

    Args:
        recipe: the whole recipe.
        device: whose kernels decide what is kept for the backward pass.

    Raises:
        ValueError: if the size of a pretrained encoder is not known.
    """
    found: dict[str, Facts] = {}
    for stage in recipe.stages:
        if stage.train is not None:
            found[stage.id] = _training(recipe, stage, device=device)
        elif stage.encode is not None:
            found[stage.id] = _encoding(recipe, stage)
        else:
            found[stage.id] = _evaluating(recipe, stage, found)
    return found


def _training(recipe: Recipe, stage: Stage, *, device: Device) -> Training:
    train = stage.training
    bf16 = train.precision == "bf16"
    networks = _networks(recipe, stage, bf16=bf16, device=device)
    beside = _beside(recipe, stage, student=networks[0], bf16=bf16)
    frames, (height, width) = train.clip.frames, train.clip.size
    clip_bytes = RGB * frames * height * width
    if stage.latents is not None:
        autoencoder = recipe.autoencoder_config(stage)
        latents = prod(_grid(recipe, stage)) * autoencoder.latent_channels
        clip_bytes = _LATENT_BYTES * latents
    return Training(networks=networks, beside=beside, clip_bytes=clip_bytes)


def _networks(recipe: Recipe, stage: Stage, *, bf16: bool, device: Device) -> tuple[Network, ...]:
    train = stage.training
    clip = (train.clip.frames, *(train.crop or train.clip.size))
    match train.model:
        case AutoencoderConfig():
            autoencoder = measured.autoencoder(train.model, clip=clip, bf16=bf16, device=device)
            adversarial = getattr(train.objective, "adversarial", None)
            if adversarial is None:
                return (autoencoder,)
            critic = measured.critic(adversarial, clip=clip, bf16=bf16, device=device)
            return measured.with_critic(autoencoder, critic=critic)
        case DiTConfig():
            found = measured.dit(
                train.model,
                text=recipe.text,
                latents=(recipe.autoencoder_config(stage).latent_channels, *_grid(recipe, stage)),
                bf16=bf16,
                device=device,
            )
        case UNetConfig():
            found = measured.unet(
                train.model,
                objective=train.diffusion,
                text=recipe.text,
                clip=clip,
                bf16=bf16,
                device=device,
            )
        case PriorConfig():
            widths = pair_widths(pair_of(recipe, stage))
            found = measured.prior(train.model, widths=widths, bf16=bf16, device=device)
        case SmallPairConfig():
            size = train.clip.size
            found = measured.pair(train.model, size=size, bf16=bf16, device=device)
    return (found,)


def _grid(recipe: Recipe, stage: Stage) -> Shape:
    """Latent frames, height, width of a clip."""
    clip, autoencoder = stage.training.clip, recipe.autoencoder_config(stage)
    height, width = (side // autoencoder.space_factor for side in clip.size)
    return (clip.frames - 1) // autoencoder.time_factor + 1, height, width


def _beside(recipe: Recipe, stage: Stage, *, student: Network, bf16: bool) -> tuple[Beside, ...]:
    """Frozen networks on the GPU of a stage: text encoder, pair, teacher."""
    train, found = stage.training, list[Beside]()
    if isinstance(train.model, UNetConfig) and train.model.text:
        text = frozen_text(recipe.text, tokens=_TYPICAL_TOKENS)
        if text is not None:
            found.append(text)
    if _reads_pair(train):
        pair = pair_of(recipe, stage)
        if isinstance(pair, PretrainedPairConfig):
            found.append(frozen_pair(pair, tokens=_TYPICAL_TOKENS))
        else:
            small = measured.pair(pair, size=train.clip.size, bf16=False, device="cuda")
            found.append(Beside("pair", small.parameters, 4, small.forward))
    if stage.distill is not None:
        weights = student.parameters + student.frozen
        flops = TEACHER_PASSES * student.forward
        found.append(Beside(stage.distill.teacher, weights, 2 if bf16 else 4, flops))
    return tuple(found)


def _reads_pair(train: Train) -> bool:
    if isinstance(train.model, UNetConfig):
        return train.model.image_embedding is not None
    return isinstance(train.model, PriorConfig)


def _encoding(recipe: Recipe, stage: Stage) -> Passing:
    row = next(row for row in describe(recipe) if row.stage == stage.id)
    assert row.parameters is not None
    assert row.once is not None
    sources = recipe.data.of(TRAIN).values()
    clips = [source.digits.clips for source in sources if source.digits is not None]
    return Passing(
        parameters=row.parameters,
        weight_bytes=4,
        flops=row.once * sum(clips) if len(clips) == len(sources) else None,
    )


def _evaluating(recipe: Recipe, stage: Stage, found: Mapping[str, Facts]) -> Passing:
    assert stage.evaluate is not None
    spec = stage.evaluate
    links = [spec.model]
    if makes_clips(recipe.stage(spec.model)):
        chain = recipe.chain(spec.model, distilled=spec.distilled)
        all_of_it = spec.metric == "digits"
        links = [link.id for link in chain if all_of_it or link.upsamples is not None]
        links += [link.prior for link in chain if link.prior is not None and all_of_it]
    flops = sum(_sampled(recipe, recipe.stage(link), found[link]) for link in links)
    parameters = sum(found[link].parameters for link in links)
    return Passing(parameters=parameters, weight_bytes=4, flops=spec.prompts * flops)


def _sampled(recipe: Recipe, stage: Stage, facts: Facts) -> float:
    """FLOPs of making one clip, or what else a network makes: as many more as it has pixels."""
    assert isinstance(facts, Training)
    train = stage.training
    frames = frames_made(recipe, stage) / train.clip.frames
    area = prod(train.clip.size) / prod(train.crop or train.clip.size)
    passes = train.sampler.steps * (1 if train.sampler.guidance.scale == 1.0 else 2)
    return facts.networks[0].forward * frames * area * passes
