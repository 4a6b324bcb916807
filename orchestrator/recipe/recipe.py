"""A recipe: one run as a graph of stages."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from models.config import Strict
from models.sora.autoencoder_config import AutoencoderConfig
from models.text.config import Byt5Config, TextConfig
from models.text.pair_config import PretrainedPairConfig
from orchestrator.recipe.chain import chain, makes_clips, result_stage
from orchestrator.recipe.data import EVAL, IMAGES, TRAIN, Data
from orchestrator.recipe.fields import Slug
from orchestrator.recipe.price import Price
from orchestrator.recipe.relations import check_stage
from orchestrator.recipe.stage import Evaluate, Stage


class Tracking(Strict):
    """Where MLflow keeps the run."""

    uri: str = "sqlite:///runs/mlflow.db"
    experiment: str = "rushes"


class Recipe(Strict):
    """Everything that makes a run, and nothing that can be derived."""

    version: Literal[1]
    name: Slug
    seed: NonNegativeInt = 0
    runs: str = "runs"  # a folder, or s3://bucket/prefix
    data: Data
    text: Annotated[TextConfig, Field(discriminator="kind")] = Byt5Config()
    pair: PretrainedPairConfig | None = None  # for networks of image embeddings; or a stage
    tracking: Tracking = Tracking()
    price: Price | None = None  # of machines: what a run has cost is then shown
    stages: tuple[Stage, ...] = Field(min_length=1)

    def stage(self, stage_id: str) -> Stage:
        """The stage of that id; KeyError if there is none."""
        return self._by_id[stage_id]

    @property
    def _by_id(self) -> dict[str, Stage]:
        return {stage.id: stage for stage in self.stages}

    def needs(self, stage: Stage) -> tuple[str, ...]:
        """Ids of the stages that must be done before this one, in the recipe's order."""
        needed = set(stage.needs)
        if stage.evaluate is not None and makes_clips(self.stage(stage.evaluate.model)):
            needed = set(self._evaluated(stage.evaluate))
        return tuple(one.id for one in self.stages if one.id in needed)

    def reads(self, stage: Stage) -> tuple[str, ...]:
        """Sources that a stage reads, itself or as latents of them, by field of ``data``."""
        return tuple(name for field in self.fields_of(stage) for name in self.data.of(field))

    def fields_of(self, stage: Stage) -> tuple[str, ...]:
        """Fields of ``data`` whose clips or images a stage reads, itself or as latents of them."""
        if stage.evaluate is not None:
            return (EVAL,)
        if self.data.images is None or stage.train is None or stage.latents is not None:
            return (TRAIN,)  # what is encoded are the training clips
        if stage.train.clip.frames == 1:
            return (IMAGES,)
        return (TRAIN, IMAGES) if stage.train.packed_images else (TRAIN,)

    def _evaluated(self, evaluate: Evaluate) -> Iterator[str]:
        for link in self.chain(evaluate.model, distilled=evaluate.distilled):
            if evaluate.metric == "digits" or link.upsamples is not None:
                yield link.id
            if evaluate.metric == "digits" and link.prior is not None:
                yield link.prior

    def chain(self, last: str, *, distilled: bool = False) -> tuple[Stage, ...]:
        """The stages whose networks make the clips of ``last``, in sampling order."""
        return chain(self._by_id, last, distilled=distilled)

    @property
    def result(self) -> Stage | None:
        """The stage whose clips are the run's result, if the recipe trains one."""
        return result_stage(self._by_id)

    def autoencoder_of(self, stage: Stage) -> Stage:
        """The stage whose autoencoder a latent-space training stage sees the world through."""
        assert stage.latents is not None
        encode = self.stage(stage.latents).encode
        assert encode is not None
        return self.stage(encode.autoencoder)

    def autoencoder_config(self, stage: Stage) -> AutoencoderConfig:
        """The network of ``autoencoder_of(stage)``."""
        return self.autoencoder_of(stage).training.autoencoder

    @model_validator(mode="after")
    def _references_hold(self) -> Self:
        seen: dict[str, Stage] = {}
        for stage in self.stages:
            if stage.id in seen:
                raise ValueError(f"stages: id={stage.id} appears twice, wanted unique ids")
            for needed in (*stage.needs, *_named_for_sampling(stage)):
                if needed not in seen:
                    raise ValueError(
                        f"stages.{stage.id} needs {needed}, wanted an earlier stage: "
                        f"{', '.join(seen) or 'none'}"
                    )
            seen[stage.id] = stage
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        for stage in self.stages:
            check_stage(stage, self._by_id, has_pretrained_pair=self.pair is not None)
        if self.data.images is not None and not any(
            IMAGES in self.fields_of(stage) for stage in self.stages
        ):
            name, source = next(iter(self.data.of(IMAGES).items()))
            raise ValueError(
                f"data.{name}.uri={source.uri}: no stage reads it, wanted one with "
                "train.clip.frames: 1 or train.packed_images"
            )
        return self


def _named_for_sampling(stage: Stage) -> tuple[str, ...]:
    return tuple(name for name in (stage.upsamples, stage.prior) if name is not None)
