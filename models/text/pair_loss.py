"""The loss that pulls a caption's embedding to its picture's and away from all others.

Shape letters: B pairs of the whole batch, E width of an embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    text_BE: Tensor, image_BE: Tensor, *, scale: Tensor, group_B: Tensor | None = None
) -> Tensor:
    """Mean of two cross-entropies: each picture over all captions, and the other way round.

    Every other pair of the batch is a negative, so the value depends on which pairs the batch
    holds: for the loss of a batch that is spread over ranks, gather both embeddings first.

    Args:
        text_BE: captions' embeddings, [B, E], norm 1.
        image_BE: pictures' embeddings, [B, E], norm 1; row i belongs to caption i.
        scale: factor of the cosines (inverse temperature), one number.
        group_B: int64 [B], the same id for pairs that mean the same. They are no negatives of
            each other: the target is uniform over them. None: no two mean the same.

    Returns:
        Scalar, in float32 or better whatever the inputs are.

    Raises:
        ValueError: if the shapes differ.

    Source: Radford et al. 2021, arXiv:2103.00020, figure 3. Groups are ours: that paper's
    captions hardly repeat, while a set with few wordings fills a batch with false negatives.
    """
    if text_BE.shape != image_BE.shape:
        raise ValueError(
            f"text_BE has shape {tuple(text_BE.shape)} and image_BE {tuple(image_BE.shape)}, "
            "wanted the same"
        )
    if group_B is None:
        group_B = torch.arange(len(text_BE), device=text_BE.device)
    if group_B.shape != text_BE.shape[:1]:
        raise ValueError(f"group_B has shape {tuple(group_B.shape)}, wanted ({len(text_BE)},)")
    dtype = torch.promote_types(text_BE.dtype, torch.float32)
    logits_BB = scale.to(dtype) * (image_BE.to(dtype) @ text_BE.to(dtype).T)
    same_BB = (group_B[:, None] == group_B[None, :]).to(dtype)
    # Symmetric: pairs of one group have equally many equals. So it serves both directions.
    target_BB = same_BB / same_BB.sum(dim=1, keepdim=True)
    images = F.cross_entropy(logits_BB, target_BB)
    captions = F.cross_entropy(logits_BB.T, target_BB)
    return (images + captions) / 2
