"""Frame rates in training: from high ones with little motion to low ones with much.

Shape letters: B clips.
"""

from torch import Tensor

from models.make_a_video.fps_config import FpsConfig


def draw_fps(uniform_B: Tensor, *, progress: float, config: FpsConfig) -> Tensor:
    """Turns uniform draws into frame rates, as far as training has come.

    The logarithm of the rate, scaled to [0, 1] over the range, follows Beta(lean, 1) at the
    start of training, an even distribution half way, and Beta(1, lean) at the end. In between
    the shape parameter that is not 1 moves evenly. Equal draws never give a higher rate later.

    Args:
        uniform_B: draws in [0, 1), [B].
        progress: part of the training steps done, in [0, 1].
        config: range and lean.

    Returns:
        Frames per second in [config.low, config.high], [B], in the dtype of the draws.

    Raises:
        ValueError: if ``progress`` is not in [0, 1].

    Source: Singer et al. 2022 (Make-A-Video), arXiv:2209.14792, section 3.4. The paper
    publishes neither the parameters, nor the path between them, nor whether the rate or its
    logarithm is drawn. With one of the two at 1 the
    inverse of the cumulative distribution has a closed form: u^(1/a) and 1 - (1 - u)^(1/b).
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress={progress}, wanted 0 to 1")
    tilt = 1.0 - 2.0 * progress  # 1 at the start, -1 at the end
    shape = 1.0 + (config.lean - 1.0) * abs(tilt)
    position_B = (
        uniform_B ** (1.0 / shape) if tilt > 0 else 1.0 - (1.0 - uniform_B) ** (1.0 / shape)
    )
    return config.low * (config.high / config.low) ** position_B
