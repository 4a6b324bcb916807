"""The network of pixels that is trained: a U-Net and, if trained along, its text encoder.

Shape letters: B clips, G captions (B, or one per frame), T frames, H W height and width.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from models.diffusion.objective import Objective
from models.diffusion.preconditioning import Preconditioning
from models.make_a_video.interpolation import faded
from models.nn.unet import SpaceTimeUNet
from models.nn.unet_config import UNetConfig
from models.nn.unet_inputs import UNetInputs
from models.text.states import TextEncoder, Tokens

_UNET = "unet."


class CaptionedUNet(nn.Module):
    """A space-time U-Net that reads captions as tokens or as states of a frozen encoder.

    What this module holds is exactly what the optimizer, the EMA and the checkpoint hold: a
    frozen text encoder is left out.
    """

    def __init__(
        self,
        config: UNetConfig,
        *,
        text_width: int | None,
        text: TextEncoder | None,
        objective: Objective,
    ) -> None:
        super().__init__()
        self._precondition = (
            None
            if config.expected_std is None
            else Preconditioning(objective, std=config.expected_std, mean=config.expected_mean)
        )
        self.unet = SpaceTimeUNet(config, text_width=text_width)
        self.text = text

    def forward(
        self,
        x_B3THW: Tensor,
        t_B: Tensor,
        inputs: UNetInputs,
        tokens: Tokens | None = None,
        rows_G: Tensor | None = None,
    ) -> Tensor:
        """Predicts the objective's target; see ``SpaceTimeUNet``.

        Args:
            x_B3THW: noisy pixels.
            t_B: times in [0, 1].
            inputs: all else that the network reads, but for the text if tokens are given.
            tokens: of captions, for the encoder that is trained along.
            rows_G: which of them each of the G captions is, [G], int64.

        Raises:
            ValueError: if tokens are given and there is no encoder for them.
        """
        if tokens is not None:
            if self.text is None:
                raise ValueError("tokens are given, wanted the states of the frozen encoder")
            assert rows_G is not None
            text = self.text(tokens.ids_BL, tokens.mask_BL).rows(rows_G)
            # A U-Net pools the tokens by itself. Sharded optimizers want a gradient for each
            # weight, so those behind the encoder's own pooled vector get one of zeros.
            tokens_BLD = text.tokens_BLD + 0.0 * text.pooled_BD.sum()
            inputs = replace(inputs, text=replace(text, tokens_BLD=tokens_BLD))
        output = self.unet(x_B3THW, t_B, inputs)
        if self._precondition is None:
            return output
        expected = inputs.low_resolution_BCTHW
        if inputs.given_BCTHW is not None:
            expected = faded(inputs.given_BCTHW)
        return self._precondition(output, x_B3THW, t_B, expected, inputs.augmentation_B)

    def blocks(self) -> list[nn.Module]:
        """The layers, to be compiled or checkpointed one by one."""
        return self.unet.blocks()

    def temporal_names(self) -> set[str]:
        """Names of the weights that mix frames."""
        return {_UNET + name for name in self.unet.temporal_parameters()}

    def load_smaller(self, weights: Mapping[str, Tensor]) -> frozenset[str]:
        """Loads a network that lacks layers over time, given frames or fps.

        Returns:
            The names of what was loaded; all else is as fresh as it was.

        Raises:
            ValueError: if it lacks anything else, or has what this network has not.
        """
        inner = {
            name.removeprefix(_UNET): weight
            for name, weight in weights.items()
            if name.startswith(_UNET)
        }
        rest = {name: weight for name, weight in weights.items() if not name.startswith(_UNET)}
        own = {name for name in self.state_dict() if not name.startswith(_UNET)}
        if rest.keys() != own:
            differing = min(rest.keys() ^ own)
            raise ValueError(f"weights differ in {differing}, wanted the same text encoder")
        self.unet.load_smaller(inner)
        self.load_state_dict(rest, strict=False)
        return frozenset(weights)
