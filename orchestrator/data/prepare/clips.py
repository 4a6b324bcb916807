"""Third step: scenes into clips of the wanted lengths."""

import math

from orchestrator.data.prepare.keys import clip_key
from orchestrator.data.prepare.records import IMAGE, SHORT, Clip, Cut, Listed, Probed
from orchestrator.recipe.prepare import ROUNDING_S

VERSION = 1


def clips_of(row: Listed, probed: Probed, found: Cut, *, min_s: float, max_s: float) -> list[Clip]:
    """Cuts every scene from its beginning into clips of ``max_s`` seconds.

    What is left of a scene is a clip, too, if it has ``min_s`` seconds; else its row says that it
    is short. An image is one clip without a length.
    """
    if row.kind == IMAGE:
        return [Clip(clip_key(row.key, 0), video=row.key, scene=0, start_s=0.0, end_s=0.0)]
    ends_s = (*found.starts_s[1:], probed.duration_s)
    clips: list[Clip] = []
    for scene, (start_s, end_s) in enumerate(zip(found.starts_s, ends_s, strict=True)):
        for piece in range(max(1, math.ceil((end_s - start_s - ROUNDING_S) / max_s))):
            first_s = start_s + piece * max_s
            last_s = min(first_s + max_s, end_s)
            length_s = last_s - first_s
            is_short = length_s < min_s - ROUNDING_S
            clips.append(
                Clip(
                    clip_key(row.key, len(clips)),
                    video=row.key,
                    scene=scene,
                    start_s=first_s,
                    end_s=last_s,
                    reason=SHORT if is_short else None,
                    detail=f"{length_s:.3f} s, wanted {min_s:.3f}" if is_short else "",
                )
            )
    return clips
