"""One node of a recipe's graph."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from models.config import Strict
from models.text.pair_config import ContrastiveConfig
from orchestrator.recipe.distill import Distill
from orchestrator.recipe.fields import Slug
from orchestrator.recipe.train import Compute, Save, Train

Kind = Literal["train", "encode", "distill", "evaluate"]
Metric = Literal["digits", "upsamplers", "prior"]


class Encode(Strict):
    """Turns the training clips into latents (and frozen text embeddings), once."""

    autoencoder: Slug  # the stage that trained it
    batch: PositiveInt = 32  # clips per forward


class Evaluate(Strict):
    """Scores trained models on held-out prompts and clips.

    ``digits`` samples the whole chain up to ``model`` and asks a classifier of real digits;
    ``upsamplers`` compares every upsampling network of that chain with interpolation;
    ``prior`` compares a prior's embeddings with those of the true images.
    """

    model: Slug  # the stage that trained it, the last one of a chain
    metric: Metric = "digits"
    distilled: bool = False  # takes the last student of each network of the chain
    perceptual: str | None = None  # weights of a VGG-style distance, for ``upsamplers``
    prompts: PositiveInt = 100  # or held-out clips
    batch: PositiveInt = 25  # clips sampled at once
    seed: int = Field(default=0, ge=0)


class Stage(Strict):
    """One unit of work; exactly one of ``train``, ``encode``, ``evaluate``.

    A stage with ``distill`` has a ``train`` too, whatever it leaves open completed from its
    teacher's.
    """

    id: Slug
    train: Train | None = None
    distill: Distill | None = None
    encode: Encode | None = None
    evaluate: Evaluate | None = None
    latents: Slug | None = None  # a training stage reads the latents of this encode stage
    starts_from: Slug | None = None  # a training stage begins with this stage's EMA weights
    pair: Slug | None = None  # whose image embeddings the network reads or predicts
    upsamples: Slug | None = None  # whose clips it gets in sampling; no training dependency
    prior: Slug | None = None  # whose embeddings it gets in sampling; no training dependency
    compute: Compute = Compute()
    save: Save = Save()

    @property
    def kind(self) -> Kind:
        """Which of them this stage is."""
        if self.train is not None:
            return "distill" if self.distill is not None else "train"
        return "encode" if self.encode else "evaluate"

    @property
    def begins_with(self) -> str | None:
        """The stage whose EMA weights a training stage begins with."""
        return self.distill.teacher if self.distill is not None else self.starts_from

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the stages that this one names and that must be done before it."""
        named = (
            self.latents,
            self.begins_with,
            self.pair,
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
        readers = max(1, ranks // self.compute.sequence_parallel)
        return self.training.batch // (self.training.micro_batch * readers)

    def splits_over(self, ranks: int) -> bool:
        """Whether ``ranks`` ranks may train this stage: each gets the same number of full passes.

        Ranks that share tokens pass through the same clips. A contrastive batch is compared as a
        whole, so it is exactly one pass of all ranks.
        """
        if ranks % self.compute.sequence_parallel:
            return False
        clips = self.training.micro_batch * (ranks // self.compute.sequence_parallel)
        if isinstance(self.training.objective, ContrastiveConfig):
            return self.training.batch == clips
        return self.training.batch % clips == 0

    @property
    def legal_ranks(self) -> tuple[int, ...]:
        """Gang sizes that a training stage may run with, the smallest first.

        Sizes between ``min_workers`` and ``workers`` that do not split the batch are left out.
        """
        sizes = range(self.compute.least_ranks, self.compute.ranks + 1)
        return tuple(ranks for ranks in sizes if self.splits_over(ranks))

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if self.distill is not None and self.train is None:
            raise ValueError(
                f"distill.teacher={self.distill.teacher}, wanted an earlier stage that trains a "
                "network"
            )
        kinds = [name for name in ("train", "encode", "evaluate") if getattr(self, name)]
        if len(kinds) != 1:
            raise ValueError(
                f"has {kinds or 'none'}, wanted exactly one of train, encode, distill, evaluate"
            )
        for field in ("latents", "starts_from", "pair", "upsamples", "prior"):
            if self.train is None and getattr(self, field) is not None:
                raise ValueError(f"{field} belongs to a train stage")
        if self.distill is not None and self.starts_from is not None:
            raise ValueError("starts_from has no meaning for a student: it starts as its teacher")
        return self

    @model_validator(mode="after")
    def _batch_splits_evenly(self) -> Self:
        if self.train is None:
            return self
        for name, ranks in self._bounds():
            if self.splits_over(ranks):
                continue
            sharing = self.compute.sequence_parallel
            if self.compute.workers == 0 and sharing > 1:
                raise ValueError(
                    "compute.workers=0 is one process, wanted at least "
                    f"compute.sequence_parallel={sharing}"
                )
            if ranks % sharing:
                raise ValueError(
                    f"compute.{name}={getattr(self.compute, name)}, wanted a multiple of "
                    f"compute.sequence_parallel={sharing}"
                )
            clips = self.train.micro_batch * (ranks // sharing)
            if isinstance(self.train.objective, ContrastiveConfig):
                raise ValueError(
                    f"train.batch={self.train.batch} with micro_batch*{name}={clips}: captions "
                    "and pictures of a whole batch are compared, wanted the same number"
                )
            raise ValueError(
                f"train.batch={self.train.batch} is not a multiple of micro_batch*{name}"
                f"{'' if sharing == 1 else '/sequence_parallel'}={self.train.micro_batch}*{ranks}"
                f"{'' if sharing == 1 else f'/{sharing}'}={clips}"
            )
        return self

    def _bounds(self) -> tuple[tuple[str, int], ...]:
        """The gang sizes that the recipe names, by the field that names them."""
        largest = (("workers", self.compute.ranks),)
        if not self.compute.is_elastic:
            return largest
        return (("min_workers", self.compute.least_ranks), *largest)
