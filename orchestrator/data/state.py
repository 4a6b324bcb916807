"""Whether a stream may go on from a state: the same clips in the same order."""

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import UserError

SHUFFLE_SHARDS = 16  # where nothing else is said
_CHECKED = ("seed", "index", "images", "shuffle_shards")


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
    before = {"shuffle_shards": SHUFFLE_SHARDS} if is_packed_alone else {}
    saved = before | dict(state)
    for name in _CHECKED:
        # As text: the order of the parts decides that of the clips.
        if json.dumps(saved.get(name)) != json.dumps(own.get(name)):
            raise UserError(
                f"{uri}: the checkpoint was made with {name}={saved.get(name)}, seen "
                f"{own.get(name)}; use the same data or a new --run"
            )
