"""A picture of the user's."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import UserError


def read_picture(path: Path) -> NDArray[np.uint8]:
    """The first frame of a PNG, a JPEG or a video, [H, W, 3].

    Raises:
        UserError: if the file is not there or is none.
    """
    import av  # an optional decoder
    from av.error import FFmpegError

    try:
        with av.open(str(path), mode="r") as container:
            for frame in container.decode(video=0):
                return frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    except FFmpegError as error:
        raise UserError(f"--image {path}: {error.strerror}, wanted a picture") from None
    except IndexError:
        pass
    raise UserError(f"--image {path}: no picture in it, wanted a PNG or a JPEG")
