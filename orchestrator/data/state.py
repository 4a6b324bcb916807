"""Whether a stream may go on from a state: the same clips in the same order."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.data.index import Bucket
from orchestrator.errors import UserError

SHUFFLE_SHARDS = 16  # where nothing else is said
_CHECKED = ("seed", "index", "images", "sizes", "shuffle_shards")


def sizes_of(shapes: Sequence[Bucket], *, batch: int, multiples: Sequence[int]) -> dict[str, int]:
    """Clips of a step of each shape, as JSON; ``batch`` times its multiple."""
    return {
        "x".join(map(str, shape)): batch * multiple
        for shape, multiple in zip(shapes, multiples, strict=True)
    }


def check_state(
    state: Mapping[str, Any], *, own: Mapping[str, Any], uri: str, is_packed_alone: bool
) -> None:
    """Raises UserError unless a state is of the order that the stream has.

    Args:
        state: that was saved.
        own: the stream's.
        uri: of the clips.
        is_packed_alone: whether nothing but the images of packed slots is shuffled in blocks:
            older states do not say how large these were, and are taken for the default's.
    """
    saved = dict(state)
    if "sizes" not in saved:
        saved["sizes"] = own["sizes"]
        if is_packed_alone:
            saved.setdefault("shuffle_shards", SHUFFLE_SHARDS)
    for name in _CHECKED:
        # As text: the order of the parts decides that of the clips.
        if json.dumps(saved.get(name)) != json.dumps(own.get(name)):
            raise UserError(
                f"{uri}: the checkpoint was made with {name}={saved.get(name)}, seen "
                f"{own.get(name)}; use the same data or a new --run"
            )
