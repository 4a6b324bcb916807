"""From stored clips to what a U-Net trains on: clean clips and all that it reads.

Every draw is per global sample slot and in a fixed order, so that a clip sees the same at any
world size.

Shape letters: B clips, T frames, H W height and width, G captions or pictures (one per clip, or
one per frame where some slots hold independent images).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.cascade.lift import enlarge, insert_frames
from models.diffusion.augmentation import as_cosine, augment
from models.make_a_video.interpolation import (
    every_kth,
    first_frames,
    given_channels,
    last_frames,
)
from models.nn.unet_inputs import UNetInputs
from models.text.pair_states import ImageTextPair
from models.text.states import EMPTY_CAPTION
from orchestrator.data.packing import Image
from orchestrator.recipe.chain import Upsampling, upsampling
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.recipe.train import Train
from orchestrator.train.tasks.base import Micro
from orchestrator.train.tasks.windows import Window, draw_windows, pictures, pixels
from orchestrator.train.transfer import on_device
from orchestrator.train.views import FRAMES, LOW


@dataclass(frozen=True)
class PixelBatch:
    """Clean clips in [-1, 1], what the network reads beside them, and their captions.

    Attributes:
        x_B3THW: clean clips.
        inputs: all that the network reads, but for text.
        captions: G captions; none for a network that reads no text.
    """

    x_B3THW: Tensor
    inputs: UNetInputs
    captions: list[str]


class PixelReader:
    """Makes batches of one stage."""

    def __init__(
        self, recipe: Recipe, stage: Stage, *, pair: ImageTextPair | None, device: torch.device
    ) -> None:
        self._train: Train = stage.training
        self._model = stage.training.unet
        self._pair = pair
        self._device = device
        self._below: Upsampling | None = None
        if stage.upsamples is not None:
            self._below = upsampling(stage, parent=recipe.stage(stage.upsamples))

    def read(self, micro: Micro) -> PixelBatch:
        """Clips, conditions and captions of one forward pass."""
        windows = draw_windows(micro, train=self._train)
        x_B3THW = pixels(micro, windows, name=FRAMES, device=self._device)
        low_B3THW = self._low(micro, windows, x_B3THW) if self._model.low_resolution else None
        if self._train.crop is not None:
            assert low_B3THW is not None
            x_B3THW, low_B3THW = self._cropped(micro, x_B3THW, low_B3THW)
        level_B = None
        if self._train.augmentation is not None:
            assert low_B3THW is not None
            drawn_B = micro.random.uniform() * self._train.augmentation.level_max
            noise = self._moved(micro.random.normal(low_B3THW.shape[1:]))
            schedule = self._train.augmentation.schedule
            level_B = self._moved(as_cosine(drawn_B, schedule=schedule))
            low_B3THW = augment(low_B3THW, noise, level_B)
        inputs = UNetInputs(
            image_embedding_GE=self._embeddings(micro, windows),
            fps_B=self._tensor([one.fps for one in windows]) if self._model.fps else None,
            augmentation_B=level_B,
            low_resolution_BCTHW=low_B3THW,
            given_BCTHW=self._given(micro, x_B3THW) if self._model.given_frames else None,
            video_B=self._are_videos(micro) if self._train.packed_images else None,
            dropout_B=self._dropout_seeds(micro) if self._model.dropout else None,
        )
        return PixelBatch(x_B3THW=x_B3THW, inputs=inputs, captions=self._captions(micro))

    def _low(self, micro: Micro, windows: Sequence[Window], x_B3THW: Tensor) -> Tensor:
        """The smaller clip at this stage's size."""
        assert self._below is not None
        if self._below.kind == "space":
            return enlarge(
                pixels(micro, windows, name=LOW, device=self._device), size=self._train.clip.size
            )
        factor = self._below.factor
        return insert_frames(x_B3THW[:, :, ::factor], factor=factor, missing=self._train.missing)

    def _cropped(self, micro: Micro, x: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        """The same random window of both, on whole pixels of the smaller clip."""
        assert self._train.crop is not None
        assert self._below is not None
        step = self._below.factor if self._below.kind == "space" else 1
        height, width = self._train.crop
        rows = [(x.shape[-2] - height) // step + 1] * len(x)
        columns = [(x.shape[-1] - width) // step + 1] * len(x)
        corners = zip(micro.random.choice(rows), micro.random.choice(columns), strict=True)
        windows = [
            (slice(top * step, top * step + height), slice(left * step, left * step + width))
            for top, left in corners
        ]
        return (
            torch.stack([one[..., r, c] for one, (r, c) in zip(x, windows, strict=True)]),
            torch.stack([one[..., r, c] for one, (r, c) in zip(low, windows, strict=True)]),
        )

    def _embeddings(self, micro: Micro, windows: Sequence[Window]) -> Tensor | None:
        """The image embedding of every clip's first frame; zeros where it is dropped."""
        if self._model.image_embedding is None:
            return None
        assert self._pair is not None
        pictures_B3HW = pictures(micro, windows, device=self._device)
        kept_B = self._moved(micro.random.uniform() >= self._train.embedding_drop)
        return self._pair.image(pictures_B3HW) * kept_B[:, None]

    def _are_videos(self, micro: Micro) -> Tensor:
        return self._moved(torch.tensor([not images for images in micro.packed]))

    def _dropout_seeds(self, micro: Micro) -> Tensor:
        seeds = micro.random.choice([2**31] * len(micro.samples))
        return self._moved(torch.tensor(seeds, dtype=torch.int64))

    def _given(self, micro: Micro, x_B3THW: Tensor) -> Tensor:
        """Known frames: every so many, or the first or last few."""
        given = self._train.given
        assert given is not None
        frames, clips = x_B3THW.shape[2], len(x_B3THW)
        skips = micro.random.choice([len(given.skips)] * clips)
        at_ends = (micro.random.uniform() < given.ends).tolist()
        counts = micro.random.choice([frames - 1] * clips)
        is_first = micro.random.choice([2] * clips)
        masks = [
            (first_frames if first else last_frames)(frames, given=count + 1)
            if end
            else every_kth(frames, skip=given.skips[skip])
            for skip, end, count, first in zip(skips, at_ends, counts, is_first, strict=True)
        ]
        mask_BT = self._moved(torch.stack(masks))
        return given_channels(x_B3THW, mask_BT, missing=self._train.missing)

    def _captions(self, micro: Micro) -> list[str]:
        """One per clip, or one per frame for a stage some of whose slots hold images.

        Always per frame for such a stage: under ZeRO-3 all ranks have to do the same.
        """
        if not self._model.text:
            return []
        dropped = (micro.random.uniform() < self._train.caption_drop).tolist()
        picked = micro.random.choice([len(captions) for captions in micro.captions])
        captions = [
            EMPTY_CAPTION if drop else wordings[index]
            for wordings, index, drop in zip(micro.captions, picked, dropped, strict=True)
        ]
        if not self._train.packed_images:
            return captions
        wordings_BT = micro.random.uniform(self._train.clip.frames).tolist()
        return [
            caption
            for clip, drop, images, wordings_T in zip(
                captions, dropped, micro.packed, wordings_BT, strict=True
            )
            for caption in _frame_captions(clip, drop, images, wordings_T)
        ]

    def _tensor(self, values: Sequence[float]) -> Tensor:
        return self._moved(torch.tensor(values, dtype=torch.float32))

    def _moved(self, x: Tensor) -> Tensor:
        return on_device(x, device=self._device)


def _frame_captions(
    clip: str, dropped: bool, images: Sequence[Image], wordings_T: Sequence[float]
) -> list[str]:
    """The clip's caption for every frame, or one of each image's own; draws in [0, 1) say which."""
    if not images:
        return [clip] * len(wordings_T)
    if dropped:
        return [EMPTY_CAPTION] * len(wordings_T)
    return [
        image.captions[int(wording * len(image.captions))]
        for image, wording in zip(images, wordings_T, strict=True)
    ]
