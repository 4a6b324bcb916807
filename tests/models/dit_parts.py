"""How many weights of a diffusion transformer belong to which part."""

from models.sora.dit import VideoDiT

# First match by a piece of the parameter's name; order matters.
_PARTS = (
    ("qk_norm", (".norm.query.", ".norm.key.", ".text_norm.")),
    ("cross_attention", (".cross_attention.",)),
    ("modulation", (".modulation.", ".text_modulation.")),
    ("mlp", (".mlp.", ".mlp_hidden.")),
    ("attention", ("blocks.",)),
)


def parameters_by_part(dit: VideoDiT) -> dict[str, int]:
    """Counts of weights; they add up to all of the model's.

    Inside the blocks: qk_norm, cross_attention, modulation, mlp, attention (a single-stream
    block's output projection serves attention and MLP, and counts as attention). Around them:
    patch (and given frames), time, text, final. The class-conditional DiT (arXiv:2212.09748) has
    no qk_norm, no cross_attention, and a table of labels in the place of text.
    """
    counts: dict[str, int] = {}
    for name, weight in dit.named_parameters():
        part = _part(name)
        counts[part] = counts.get(part, 0) + weight.numel()
    for part, _ in _PARTS:
        counts.setdefault(part, 0)
    return counts


def _part(name: str) -> str:
    if "blocks." not in name:
        first = name.split(".")[0]
        return "patch" if first in ("patch_in", "condition_in") else first
    return next(part for part, pieces in _PARTS if any(piece in name for piece in pieces))
