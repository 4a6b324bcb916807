"""What encoded shards are made from, and the key that it gives them."""

from collections.abc import Mapping
from typing import Any

from orchestrator.data.index import Index
from orchestrator.data.table import layout_digest
from orchestrator.recipe.digest import canonical, sha256
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import open_store
from orchestrator.train.job import StageJob
from orchestrator.train.pretrained import as_user_errors
from orchestrator.train.weights import weights_digest

# Of what is stored of a clip: the posterior's mean, normalised, in float32, and the states of every
# caption as ``text_states.pack_states`` has them. Another number gives other shards.
VERSION = 1
_DIGITS = 32  # of a key


def encoders_of(job: StageJob) -> dict[str, Any]:
    """What an encode stage makes of any clips, as JSON.

    Batch and device are in it for their rounding; how many processes encode is not.

    Args:
        job: the stage; its autoencoder is finished.

    Raises:
        UserError: if the autoencoder or the text encoder is not there.
    """
    spec = job.spec.encode
    assert spec is not None
    recipe = job.recipe
    return {
        "version": VERSION,
        "autoencoder": {
            "config": recipe.stage(spec.autoencoder).training.autoencoder.model_dump(mode="json"),
            "weights": weights_digest(open_store(job.run), stage=spec.autoencoder),
        },
        "text": _text(recipe),
        "batch": spec.batch,
        "device": "cuda" if job.spec.compute.gpus_per_worker else "cpu",
    }


def made_of(encoders: Mapping[str, Any], *, clips: Index) -> dict[str, Any]:
    """All that decides the bytes of the shards of one source, as JSON.

    Args:
        encoders: as ``encoders_of`` says it.
        clips: index of the source.
    """
    return {
        **encoders,
        "clips": {"digest": clips.digest, "layout": layout_digest(clips.table)},
    }


def encode_key(made: dict[str, Any]) -> str:
    """The name of the folder of shards that are made of this."""
    return sha256(canonical(made))[:_DIGITS]


def _text(recipe: Recipe) -> dict[str, Any] | None:
    """What a frozen encoder's states depend on; None for one that is trained along."""
    text = recipe.text
    if text.kind == "byt5":
        return None
    # Late: the hub's client is for those who name a pretrained encoder.
    from models.text.hub import fingerprint

    with as_user_errors():
        files = fingerprint(text.path, field="text.path")
    return {"config": text.model_dump(mode="json", exclude={"path"}), "checkpoint": files}
