"""One node of a recipe's graph."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from models.config import Strict
from orchestrator.recipe.fields import Slug
from orchestrator.recipe.train import Compute, Save, Train


class Encode(Strict):
    """Turns the training clips into latents (and frozen text embeddings), once."""

    autoencoder: Slug  # the stage that trained it
    batch: PositiveInt = 32  # clips per forward


class Evaluate(Strict):
    """Scores a trained model on held-out prompts."""

    model: Slug  # the stage that trained it
    metric: Literal["digits"] = "digits"
    prompts: PositiveInt = 100
    batch: PositiveInt = 25  # clips sampled at once
    seed: int = Field(default=0, ge=0)


class Stage(Strict):
    """One unit of work; exactly one of ``train``, ``encode``, ``evaluate``."""

    id: Slug
    train: Train | None = None
    encode: Encode | None = None
    evaluate: Evaluate | None = None
    latents: Slug | None = None  # a training stage reads the latents of this encode stage
    starts_from: Slug | None = None  # a training stage begins with this stage's EMA weights
    compute: Compute = Compute()
    save: Save = Save()

    @property
    def kind(self) -> Literal["train", "encode", "evaluate"]:
        """Which of the three this stage is."""
        return "train" if self.train else "encode" if self.encode else "evaluate"

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the stages that must be done before this one."""
        named = (
            self.latents,
            self.starts_from,
            self.encode.autoencoder if self.encode else None,
            self.evaluate.model if self.evaluate else None,
        )
        return tuple(dict.fromkeys(one for one in named if one is not None))

    @property
    def training(self) -> Train:
        """How a training stage trains; only for one."""
        assert self.train is not None
        return self.train

    def accumulation(self, *, ranks: int) -> int:
        """Forward passes per optimizer step on each of ``ranks`` ranks of a training stage."""
        return self.training.batch // (self.training.micro_batch * ranks)

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        kinds = [name for name in ("train", "encode", "evaluate") if getattr(self, name)]
        if len(kinds) != 1:
            raise ValueError(
                f"has {kinds or 'none'}, wanted exactly one of train, encode, evaluate"
            )
        if self.train is None and (self.latents or self.starts_from):
            raise ValueError("latents and starts_from belong to a train stage")
        return self

    @model_validator(mode="after")
    def _batch_splits_evenly(self) -> Self:
        if self.train is None:
            return self
        for ranks in self.compute.legal_ranks:
            clips = self.train.micro_batch * ranks
            if self.train.batch % clips:
                raise ValueError(
                    f"train.batch={self.train.batch} is not a multiple of "
                    f"micro_batch*workers={self.train.micro_batch}*{ranks}={clips}"
                )
        return self
