"""What a stage says of the visible patches: maps of channels, and one vector a patch."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from fcmae.masking import unpatchify


@dataclass(frozen=True)
class ChannelMap:
    """A channel of a stage: Float[h, w], NaN where patches are hidden."""

    channel: int
    values: Float[Tensor, "h w"]


def most_varied(
    stage: Float[Tensor, "v s t d"],
    visible: Bool[Tensor, " n"],
    grid: tuple[int, int],
    most: int,
) -> list[ChannelMap]:
    """The maps of the channels that vary most over the visible positions, the most varied first.

    Args:
        stage: What a stage gives for each visible patch.
        visible: Which patches these are.
        grid: Numbers of rows and columns of patches.
        most: How many channels.
    """
    rows = stage.flatten(0, 2)
    chosen = rows.var(0, correction=0).topk(min(most, rows.shape[1])).indices
    patches = stage.new_full((len(visible), *stage.shape[1:3], len(chosen)), torch.nan)
    patches[visible] = stage[..., chosen]
    (maps,) = unpatchify(patches[None], grid)
    return [ChannelMap(*pair) for pair in zip(chosen.tolist(), maps, strict=True)]


def patch_vectors(stage: Float[Tensor, "*b v s t d"]) -> Float[Tensor, "*b v d"]:
    """The mean over the positions of each patch, divided by its length."""
    return F.normalize(stage.float().mean((-3, -2)), dim=-1)


def similarities(
    vectors: Float[Tensor, "v d"], visible: Bool[Tensor, " n"], patch: int
) -> Float[Tensor, " n"]:
    """The cosine of a visible patch with each patch, NaN for hidden ones.

    Args:
        vectors: Of the visible patches, see `patch_vectors`.
        visible: Which patches these are.
        patch: The number of the patch, which is visible.
    """
    cosines = vectors.new_full((len(visible),), torch.nan)
    cosines[visible] = vectors @ vectors[int(visible[:patch].sum())]
    return cosines
