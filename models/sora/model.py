"""The denoiser that is trained: the diffusion transformer and, if trained along, its text encoder.

Shape letters: B clips, C latent channels, T H W latent grid.
"""

from torch import Tensor, nn

from models.sora.dit import Condition, VideoDiT
from models.sora.dit_config import DiTConfig
from models.text.encoder import TextEncoder, TextStates, Tokens


class TextToVideo(nn.Module):
    """Predicts the objective's target from noisy latents, a time and a caption.

    A frozen text encoder is left out (its states are computed once, before training), so that
    what this module holds is exactly what the optimizer, the EMA and the checkpoint hold.
    """

    def __init__(
        self,
        config: DiTConfig,
        *,
        channels: int,
        text_width: int,
        text: TextEncoder | None,
    ) -> None:
        super().__init__()
        self.dit = VideoDiT(config, channels=channels, text_width=text_width)
        self.text = text

    def forward(
        self,
        x_BCTHW: Tensor,
        t_B: Tensor,
        text: Tokens | TextStates,
        condition: Condition | None = None,
    ) -> Tensor:
        """Returns [B, C, T, H, W], float32.

        Args:
            x_BCTHW: noisy latents, [B, C, T, H, W].
            t_B: times in [0, 1], [B].
            text: byte tokens for the trained encoder, or states of a frozen one.
            condition: given latents and their mask, for models with ``condition_frames``.

        Raises:
            ValueError: if tokens are given and there is no encoder for them.
        """
        if isinstance(text, Tokens):
            if self.text is None:
                raise ValueError("text holds tokens, wanted the states of the frozen encoder")
            text = self.text(text.ids_BL, text.mask_BL)
        dtype = next(self.dit.parameters()).dtype
        return self.dit(x_BCTHW.to(dtype), t_B, text, condition).float()
