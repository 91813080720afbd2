"""The patches that are like one, in its image and in others, as the page shows them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from finetune.exploring.drawing import Drawn, coloured
from finetune.exploring.feature_maps import patch_vectors, similarities
from finetune.exploring.neighbours import Match

OWN = 5  # patches of the same image


@dataclass(frozen=True, kw_only=True)
class Place:
    """A patch by its row and its column from 0, and its cosine with another."""

    row: int
    column: int
    cosine: float
    sample: int | None = None


@dataclass(frozen=True, kw_only=True)
class Alike:
    """What is like a patch.

    Attributes:
        patch: The patch.
        map: The cosines of all patches of its image.
        own: The most similar ones of its image.
        others: The most similar ones of other images, one an image.
    """

    patch: Place
    map: Drawn
    own: list[Place]
    others: list[Place]


def alike(
    stage: Float[Tensor, "v s t d"],
    visible: Bool[Tensor, " n"],
    grid: tuple[int, int],
    patch: int,
    matches: Callable[[Tensor], Sequence[Match]],
) -> Alike:
    """Find what is like a patch.

    Args:
        stage: What a stage gives for each visible patch.
        visible: Which patches these are.
        grid: Numbers of rows and columns of patches.
        patch: The number of the patch, which is visible.
        matches: Looks up patches of other images by the vector of this one.
    """
    vectors = patch_vectors(stage)
    cosines = similarities(vectors, visible, patch).cpu()
    order = cosines.nan_to_num(-2.0).argsort(descending=True, stable=True).tolist()
    own = [i for i in order if i != patch and not cosines[i].isnan()][:OWN]

    def place(number: int, cosine: float, sample: int | None = None) -> Place:
        row, column = divmod(number, grid[1])
        return Place(row=row, column=column, cosine=cosine, sample=sample)

    vector = vectors[int(visible[:patch].sum())].cpu()
    return Alike(
        patch=place(patch, 1.0),
        map=coloured(cosines.view(grid)),
        own=[place(i, float(cosines[i])) for i in own],
        others=[place(m.patch, m.cosine, m.sample) for m in matches(vector)],
    )
