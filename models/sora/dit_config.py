"""What a recipe says about the diffusion transformer, and the table of published shapes."""

from typing import Literal, Self

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from models.config import Strict

Fusion = Literal["cross", "joint"]
Preset = Literal["S", "B", "L", "XL", "2B", "11B"]
Triple = tuple[PositiveInt, PositiveInt, PositiveInt]


class DiTShape(Strict):
    """Widths and counts of a transformer, nothing left open."""

    width: PositiveInt
    heads: PositiveInt
    depth: NonNegativeInt  # cross blocks, or dual-stream blocks if fusion is joint
    single_depth: NonNegativeInt = 0  # single-stream blocks after them; joint only
    fusion: Fusion

    @property
    def head_width(self) -> int:
        """Channels of one head."""
        return self.width // self.heads


# S to XL: Peebles & Xie 2022, arXiv:2212.09748, table 1. 2B: CogVideoX-2B, arXiv:2408.06072
# (one stream of text and video; 30 heads as in its config, the paper's table prints 32).
# 11B: Open-Sora 2.0, arXiv:2503.09642, which starts from the shape of Flux.
PRESETS: dict[Preset, DiTShape] = {
    "S": DiTShape(width=384, heads=6, depth=12, fusion="cross"),
    "B": DiTShape(width=768, heads=12, depth=12, fusion="cross"),
    "L": DiTShape(width=1024, heads=16, depth=24, fusion="cross"),
    "XL": DiTShape(width=1152, heads=16, depth=28, fusion="cross"),
    "2B": DiTShape(width=1920, heads=30, depth=0, single_depth=30, fusion="joint"),
    "11B": DiTShape(width=3072, heads=24, depth=19, single_depth=38, fusion="joint"),
}


class DiTConfig(Strict):
    """A diffusion transformer over spacetime patches; give a preset or width, heads and depth."""

    kind: Literal["video_dit"] = "video_dit"
    preset: Preset | None = None
    width: PositiveInt | None = None
    heads: PositiveInt | None = None
    depth: NonNegativeInt | None = None
    single_depth: NonNegativeInt | None = None
    text_fusion: Fusion | None = None  # null: the preset's, or cross
    patch: Triple = (1, 2, 2)  # latent cells per token: time, height, width
    mlp_ratio: PositiveInt = 4
    condition_frames: bool = False  # also reads given latents and their mask
    rope_theta: PositiveFloat = 10_000.0
    rope_axes: Triple | None = None  # channels per head for time, height, width; null: published

    @property
    def shape(self) -> DiTShape:
        """The preset's row, or the explicit sizes."""
        if self.preset is not None:
            row = PRESETS[self.preset]
            if self.text_fusion in (None, row.fusion):
                return row
            # The other way to read text, with as many blocks of the same width.
            return row.model_copy(
                update={
                    "fusion": self.text_fusion,
                    "depth": row.depth + row.single_depth,
                    "single_depth": 0,
                }
            )
        assert self.width is not None
        assert self.heads is not None
        assert self.depth is not None
        return DiTShape(
            width=self.width,
            heads=self.heads,
            depth=self.depth,
            single_depth=self.single_depth or 0,
            fusion=self.text_fusion or "cross",
        )

    @property
    def axes(self) -> tuple[int, int, int]:
        """Channels of a head that turn with time, height and width."""
        return self.rope_axes or published_axes(self.shape.head_width)

    @model_validator(mode="after")
    def _preset_or_sizes(self) -> Self:
        named = ("width", "heads", "depth", "single_depth")
        given = [name for name in named if getattr(self, name) is not None]
        if self.preset is not None and given:
            raise ValueError(
                f"preset={self.preset} and {', '.join(given)} are both given, wanted one of them"
            )
        missing = [name for name in named[:3] if getattr(self, name) is None]
        if self.preset is None and missing:
            raise ValueError(f"{', '.join(missing)} missing, wanted preset or width, heads, depth")
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        shape = self.shape
        if shape.width % shape.heads:
            raise ValueError(f"width={shape.width} is not a multiple of heads={shape.heads}")
        if shape.head_width % 2 or shape.head_width < 6:
            raise ValueError(
                f"width/heads={shape.head_width}, wanted an even number of at least 6 "
                "(a pair of channels for each of time, height, width)"
            )
        if shape.depth + shape.single_depth == 0:
            raise ValueError("depth=0, wanted at least one block")
        if shape.fusion == "cross" and shape.single_depth:
            raise ValueError(
                f"single_depth={shape.single_depth} belongs to text_fusion=joint, "
                "found text_fusion=cross"
            )
        if any(channels % 2 for channels in self.axes) or sum(self.axes) != shape.head_width:
            raise ValueError(
                f"rope_axes={list(self.axes)}, wanted three even numbers that add up to "
                f"width/heads={shape.head_width}"
            )
        return self


def published_axes(head_width: int) -> tuple[int, int, int]:
    """Splits a head over time, height and width in the proportion 16 : 56 : 56.

    Each part is even; what rounding leaves over goes to time.
    Source: HunyuanVideo (arXiv:2412.03603, section 4.2.1) and Open-Sora 2.0, 128-wide heads.
    """
    space = 2 * max(1, head_width * 7 // 32)
    return head_width - 2 * space, space, space
