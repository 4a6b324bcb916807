"""A contact sheet of a data source: some clips of every shape, by their first and last frames."""

# Shape letters in this file:
#   T frames   H height   W width

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from orchestrator.train.sheets import BACKGROUND, beside, captioned, tile
from orchestrator.train.video import Pixels

_WIDTH = 1600  # pixels that clips beside each other fill, about
_MARGIN = 12
_APART = 10  # pixels between clips, besides those between frames
_TITLE_PIXELS = 16
_TITLE_HEIGHT = 36
_RIGHT = ((0, 0), (0, 0), (0, _APART), (0, 0))


@dataclass(frozen=True)
class Group:
    """Clips of one shape, uint8 [T, H, W, 3] each, a caption for each, and a title of them all.

    Their ``ends`` are enough.
    """

    title: str
    clips: Sequence[Pixels]
    captions: Sequence[str]


def contact_sheet(groups: Sequence[Group]) -> Pixels:
    """Groups below each other, of every clip the first, middle and last frame.

    Returns:
        [H, W, 3] uint8.

    Raises:
        ValueError: if there is no group, or clips of one differ in size.
    """
    if not groups:
        raise ValueError("no clips, wanted at least one group")
    blocks = [_block(group) for group in groups]
    width = max(block.shape[1] for block in blocks) + 2 * _MARGIN
    indented = [
        np.pad(block, ((0, _MARGIN), (_MARGIN, 0), (0, 0)), constant_values=BACKGROUND)
        for block in blocks
    ]
    return np.concatenate([_widened(one, width=width) for one in indented])


def ends(clip_THWC: Pixels) -> Pixels:
    """First, middle and last frame, those that are different ones: [1 to 3, H, W, 3]."""
    last = len(clip_THWC) - 1
    return clip_THWC[sorted({0, last // 2, last})]


def _block(group: Group) -> Pixels:
    """[H, W, 3]: the title above the clips of a group."""
    cells = [
        np.pad(captioned(_strip(clip), text=text), _RIGHT, constant_values=BACKGROUND)
        for clip, text in zip(group.clips, group.captions, strict=True)
    ]
    columns = max(1, min(len(cells), _WIDTH // cells[0].shape[2]))
    shown_HWC = beside(cells, columns=columns)[0]
    title_HWC = _title(group.title)
    width = max(title_HWC.shape[1], shown_HWC.shape[1])
    return np.concatenate([_widened(one, width=width) for one in (title_HWC, shown_HWC)])


def _strip(clip_THWC: Pixels) -> Pixels:
    """First, middle and last frame as one frame, [1, H, W, 3]; a still is shown once."""
    frames = tile(ends(clip_THWC))
    return beside([frame_HWC[None] for frame_HWC in frames], columns=len(frames))


def _title(text: str) -> Pixels:
    """A line of text, [36, W, 3]."""
    font = PIL.ImageFont.load_default(_TITLE_PIXELS)
    width = round(font.getlength(text)) + 1
    image = PIL.Image.new("RGB", (width, _TITLE_HEIGHT), (BACKGROUND,) * 3)
    draw = PIL.ImageDraw.Draw(image)
    draw.text((0, _TITLE_HEIGHT // 2), text, font=font, fill=(160, 200, 255), anchor="lm")
    return np.asarray(image)


def _widened(image_HWC: Pixels, *, width: int) -> Pixels:
    missing = width - image_HWC.shape[1]
    return np.pad(image_HWC, ((0, 0), (0, missing), (0, 0)), constant_values=BACKGROUND)
