"""A recipe: one run as a graph of stages."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from models.config import Strict
from models.sora.autoencoder_config import AutoencoderConfig
from models.sora.dit_config import DiTConfig
from models.text.config import Byt5Config, TextConfig
from orchestrator.recipe.data import Data
from orchestrator.recipe.fields import Slug
from orchestrator.recipe.stage import Stage
from orchestrator.recipe.train import Clip, check_geometry


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
    tracking: Tracking = Tracking()
    stages: tuple[Stage, ...] = Field(min_length=1)

    def stage(self, stage_id: str) -> Stage:
        """The stage of that id; KeyError if there is none."""
        for stage in self.stages:
            if stage.id == stage_id:
                return stage
        raise KeyError(stage_id)

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
            for needed in stage.needs:
                if needed not in seen:
                    raise ValueError(
                        f"stages.{stage.id} needs {needed}, wanted an earlier stage: "
                        f"{', '.join(seen) or 'none'}"
                    )
            seen[stage.id] = stage
        return self

    @model_validator(mode="after")
    def _kinds_fit(self) -> Self:
        for stage in self.stages:
            if stage.encode is not None:
                self._expect_model(
                    stage.encode.autoencoder, AutoencoderConfig, f"stages.{stage.id}.autoencoder"
                )
            if stage.evaluate is not None:
                self._expect_model(stage.evaluate.model, DiTConfig, f"stages.{stage.id}.model")
            if stage.starts_from is not None:
                kind = type(stage.training.model)
                self._expect_model(stage.starts_from, kind, f"stages.{stage.id}.starts_from")
            if stage.latents is not None and self.stage(stage.latents).encode is None:
                raise ValueError(
                    f"stages.{stage.id}.latents={stage.latents}, wanted an encode stage"
                )
            if stage.train is not None and isinstance(stage.train.model, DiTConfig):
                self._latents_fit(stage)
        return self

    def _expect_model(self, stage_id: str, kind: type[Strict], field: str) -> None:
        train = self.stage(stage_id).train
        if train is None or not isinstance(train.model, kind):
            raise ValueError(f"{field}={stage_id}, wanted a stage that trains a {kind.__name__}")

    def _latents_fit(self, stage: Stage) -> None:
        if stage.latents is None:
            raise ValueError(f"stages.{stage.id}.latents is missing, wanted an encode stage's id")
        autoencoder, train = self.autoencoder_config(stage), stage.training
        try:
            check_geometry(train.clip, autoencoder=autoencoder)
            _check_patches(train.clip, autoencoder, train.dit)
            if train.image_share and train.dit.patch[0] > 1:
                raise ValueError(
                    f"image_share={train.image_share} with model.patch={list(train.dit.patch)}: "
                    "an image is one latent frame, wanted patch[0]=1 or image_share=0"
                )
        except ValueError as error:
            raise ValueError(f"stages.{stage.id}.train.{error}") from error


def _check_patches(clip: Clip, autoencoder: AutoencoderConfig, dit: DiTConfig) -> None:
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
