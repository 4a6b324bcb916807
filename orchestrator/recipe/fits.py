"""Whether the parts of one training stage fit each other.

Every function raises ValueError in one line that begins with a field of ``train``.
"""

from models.diffusion.config import DiffusionConfig, FlowConfig
from models.make_a_video.prior_config import PriorConfig
from models.nn.unet_config import UNetConfig
from models.sora.autoencoder_config import AutoencoderConfig, AutoencoderLossConfig
from models.sora.dit_config import DiTConfig
from models.text.pair_config import ContrastiveConfig, SmallPairConfig
from orchestrator.recipe.chain import Upsampling
from orchestrator.recipe.train import Clip, Train

# What only some networks know what to do with, by the kind of network that does.
_MEANING: dict[str, set[str]] = {
    "video_autoencoder": {"image_share", "batch_by"},
    "video_dit": {
        "image_share",
        "batch_by",
        "caption_drop",
        "condition_share",
        "sampler",
        "preview",
    },
    "video_unet": {
        "packed_images",
        "caption_drop",
        "embedding_drop",
        "augmentation",
        "missing_frames",
        "fps_range",
        "given",
        "crop",
        "sampler",
        "preview",
    },
    "clip_prior": {"caption_drop", "sampler"},
    "clip_pair": set(),
}
_CHECKED = sorted({field for fields in _MEANING.values() for field in fields})


def check_train(train: Train) -> None:
    """Refuses options that have no effect and parts that do not fit."""
    _check_objective(train)
    for field in _CHECKED:
        default = Train.model_fields[field].default
        value = getattr(train, field)
        if value != default and field not in _MEANING[train.model.kind]:
            shown = value if isinstance(value, float | str) else "..."
            raise ValueError(f"{field}={shown} has no meaning for model.kind={train.model.kind}")
    match train.model:
        case AutoencoderConfig():
            check_geometry(train.clip, autoencoder=train.model)
        case DiTConfig():
            _check_dit(train, train.model)
        case UNetConfig():
            _check_unet(train, train.model)
        case PriorConfig():
            _refuse_variance(train)
            _refuse_threshold(train, why="embeddings")
        case SmallPairConfig():
            if any(side % train.model.patch for side in train.clip.size):
                raise ValueError(
                    f"clip.size={list(train.clip.size)}, wanted multiples of "
                    f"model.patch={train.model.patch}"
                )


def check_geometry(clip: Clip, *, autoencoder: AutoencoderConfig) -> None:
    """Raises ValueError unless the clip divides into whole latents."""
    time, space = autoencoder.time_factor, autoencoder.space_factor
    if (clip.frames - 1) % time:
        raise ValueError(f"clip.frames={clip.frames} does not fit {time}k+1 (1, {time + 1}, ...)")
    for side in clip.size:
        if side % space:
            raise ValueError(f"clip.size={list(clip.size)} has {side}, wanted multiples of {space}")


def check_patches(clip: Clip, *, autoencoder: AutoencoderConfig, dit: DiTConfig) -> None:
    """Raises ValueError unless the clip's latents divide into whole patches."""
    latent = (
        (clip.frames - 1) // autoencoder.time_factor + 1,
        clip.size[0] // autoencoder.space_factor,
        clip.size[1] // autoencoder.space_factor,
    )
    if any(side % patch for side, patch in zip(latent, dit.patch, strict=True)):
        raise ValueError(
            f"clip gives latents of {list(latent)} (frames, height, width), "
            f"wanted multiples of model.patch={list(dit.patch)}"
        )


def check_step(train: Train, step: Upsampling) -> None:
    """Raises ValueError unless the network of a cascade can take its step from clip to clip."""
    if train.unet.low_resolution == (step.kind == "given"):
        raise ValueError("model: wanted either low_resolution or given_frames")
    if step.kind == "time" and train.packed_images:
        raise ValueError(
            f"packed_images={train.packed_images} has no meaning for a network that puts frames "
            "between: an image has none"
        )
    if step.kind == "space" and train.missing_frames is not None:
        raise ValueError(
            f"missing_frames={train.missing_frames} has no meaning for a network that puts no "
            "frames between"
        )
    factor = step.factor if step.kind == "space" else 1
    if train.crop is not None and any(side % factor for side in train.crop):
        raise ValueError(
            f"crop={list(train.crop)}, wanted multiples of {factor}: whole pixels of the smaller "
            "clip"
        )


def _check_objective(train: Train) -> None:
    match train.model:
        case AutoencoderConfig():
            wanted, fits = "autoencoder", isinstance(train.objective, AutoencoderLossConfig)
        case SmallPairConfig():
            wanted, fits = "contrastive", isinstance(train.objective, ContrastiveConfig)
        case DiTConfig() | UNetConfig() | PriorConfig():
            wanted = "flow, epsilon, x0 or v"
            fits = isinstance(train.objective, FlowConfig | DiffusionConfig)
    if not fits:
        raise ValueError(
            f"objective.kind={train.objective.kind} does not fit "
            f"model.kind={train.model.kind}, wanted {wanted}"
        )


def _check_dit(train: Train, model: DiTConfig) -> None:
    _refuse_variance(train)
    _refuse_threshold(train, why="latents")
    if train.condition_share and not model.condition_frames:
        raise ValueError(
            f"condition_share={train.condition_share} needs model.condition_frames=true, seen false"
        )


def _check_unet(train: Train, model: UNetConfig) -> None:
    objective = train.diffusion
    learns = isinstance(objective, DiffusionConfig) and objective.learned_variance
    if learns != model.learned_variance:
        raise ValueError(
            f"objective.learned_variance={learns} with model.learned_variance="
            f"{model.learned_variance}, wanted both or neither"
        )
    for field, given, option in (
        ("augmentation", train.augmentation is not None, "augmentation"),
        ("given", train.given is not None, "given_frames"),
    ):
        if given != getattr(model, option):
            raise ValueError(
                f"{field}={'given' if given else 'null'} with model.{option}="
                f"{getattr(model, option)}, wanted both or neither"
            )
    for field, option in (
        ("caption_drop", "text"),
        ("embedding_drop", "image_embedding"),
        ("fps_range", "fps"),
    ):
        if getattr(train, field) and not getattr(model, option):
            raise ValueError(f"{field} needs model.{option}, seen {getattr(model, option)}")
    if train.given is not None:
        for skip in train.given.skips:
            if (train.clip.frames - 1) % skip or skip >= train.clip.frames:
                raise ValueError(
                    f"given.skips has {skip}, wanted divisors of clip.frames-1="
                    f"{train.clip.frames - 1}"
                )
    if train.sampler.guidance.scale != 1.0 and not model.text and model.image_embedding is None:
        raise ValueError(
            f"sampler.guidance.scale={train.sampler.guidance.scale}, wanted 1: the network reads "
            "nothing that guidance could lead to"
        )
    _check_packing(train, model)
    _check_sides(train, model)
    if train.preview is not None and not _samples_from_prompts(model):
        raise ValueError("preview wants a network that needs nothing but a prompt, seen another")


def _check_packing(train: Train, model: UNetConfig) -> None:
    if not train.packed_images:
        return
    if train.clip.frames == 1 or model.image_embedding or model.given_frames:
        raise ValueError(
            f"packed_images={train.packed_images} wants clips of several frames and a network "
            "that reads no image embedding and no given frames"
        )


def _check_sides(train: Train, model: UNetConfig) -> None:
    sides = {"clip.size": train.clip.size} | ({"crop": train.crop} if train.crop else {})
    for field, size in sides.items():
        if any(side % model.stride for side in size):
            raise ValueError(f"{field}={list(size)}, wanted multiples of {model.stride}")
    if train.crop is None:
        return
    if any(part > whole for part, whole in zip(train.crop, train.clip.size, strict=True)):
        raise ValueError(
            f"crop={list(train.crop)} is larger than clip.size={list(train.clip.size)}"
        )
    if not model.low_resolution:
        raise ValueError("crop wants model.low_resolution=true: others must see the whole picture")


def _samples_from_prompts(model: UNetConfig) -> bool:
    return model.text and not (
        model.low_resolution or model.given_frames or model.image_embedding is not None
    )


def _refuse_variance(train: Train) -> None:
    if isinstance(train.objective, DiffusionConfig) and train.objective.learned_variance:
        raise ValueError(
            f"objective.learned_variance=true does not fit model.kind={train.model.kind}, "
            "wanted false: it predicts no variance"
        )


def _refuse_threshold(train: Train, *, why: str) -> None:
    if train.sampler.threshold is not None:
        raise ValueError(
            f"sampler.threshold={train.sampler.threshold} does not fit "
            f"model.kind={train.model.kind}, wanted null: {why} have no range to keep"
        )
