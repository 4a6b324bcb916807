"""Second step: where a video's scenes begin."""

import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import ContentDetector

from orchestrator.data.prepare.media import Frame, decoded, short_side
from orchestrator.data.prepare.records import IMAGE, Cut, Listed, Probed
from orchestrator.recipe.prepare import Scenes

VERSION = 1

_SHORT_SIDE = 144  # pixels that frames are looked at with


def cut(row: Listed, probed: Probed, *, scenes: Scenes | None) -> Cut:
    """Times of the first frames of all scenes; a video without a cut is one.

    Frames are counted for the detector and timed by the file, so a rate that varies does no harm.

    Raises:
        BrokenError: if the video is not what it was.
    """
    if scenes is None or row.kind == IMAGE or probed.frames < 2:
        return Cut(row.key, starts_s=(0.0,))
    rate = probed.fps
    detector = ContentDetector(
        threshold=scenes.threshold, min_scene_len=max(1, round(scenes.min_s * rate))
    )
    times_s: list[float] = []
    cuts: set[int] = set()
    for number, frame in enumerate(decoded(row.root, row.name, size=row.size)):
        times_s.append(frame.time_s)
        found = detector.process_frame(FrameTimecode(number, rate), _small(frame))
        cuts.update(one.frame_num for one in found)
    cuts.update(
        one.frame_num for one in detector.post_process(FrameTimecode(len(times_s) - 1, rate))
    )
    starts = sorted({0, *(number for number in cuts if 0 < number < len(times_s))})
    return Cut(row.key, starts_s=tuple(times_s[number] for number in starts))


def _small(frame: Frame) -> np.ndarray:
    size = short_side(frame.size, at_most=_SHORT_SIDE)
    rgb_HWC = frame.picture(size=size)
    return np.ascontiguousarray(rgb_HWC[..., ::-1])
