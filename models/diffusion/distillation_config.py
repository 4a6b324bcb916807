"""What a recipe says about one round of distillation."""

from typing import Literal

from pydantic import PositiveInt

from models.config import Strict


class DistillationConfig(Strict):
    """One round of progressive distillation: the student's steps and the weight of its error.

    Source: Salimans and Ho 2022, arXiv:2202.00512, algorithm 2. On the squared error of the
    clean clip, ``truncated_snr`` (equation 9) is max(SNR, 1) and ``snr_plus_one`` (equation 10)
    is SNR + 1. Meng et al. 2022, arXiv:2210.03142, take the first; Imagen Video does not say.
    """

    steps: PositiveInt  # N of the student; its teacher takes 2 N
    weighting: Literal["truncated_snr", "snr_plus_one"] = "truncated_snr"
