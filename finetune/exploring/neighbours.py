"""The patches of many images, of which the page looks up those that are like one."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from finetune.exploring.explored import Explored
from finetune.exploring.feature_maps import patch_vectors


@dataclass(frozen=True)
class Match:
    """A patch of an image that is like another: its cosine, from -1 to 1."""

    sample: int
    patch: int
    cosine: float


@dataclass(frozen=True)
class Neighbours:
    """Vectors of all patches of some samples, for each stage, in half precision.

    Attributes:
        samples: The numbers of the samples.
        vectors: Float16[m, n, d] for each stage, of length 1.
    """

    samples: Int[Tensor, " m"]
    vectors: list[Tensor]

    def nearest(
        self, vector: Float[Tensor, " d"], stage: int, most: int, but: int | None
    ) -> list[Match]:
        """The images with a patch like a vector, each by its best patch, the most similar first.

        Args:
            vector: Of a patch, of length 1.
            stage: The number of the stage it is of, from 0.
            most: How many images.
            but: A sample that is left out: the one that the vector is of.
        """
        cosines, patches = (self.vectors[stage] @ vector.half()).float().max(1)
        if but is not None:
            cosines[self.samples == but] = -torch.inf
        order = cosines.argsort(descending=True, stable=True)[:most].tolist()
        return [
            Match(int(self.samples[i]), int(patches[i]), float(cosines[i]))
            for i in order
            if cosines[i] > -torch.inf
        ]


def neighbours_of(
    explored: Explored, batches: Iterable[tuple[Float[Tensor, "b c h w"], list[int]]]
) -> Neighbours:
    """Compute the vectors of the patches of images, none of which is hidden.

    Args:
        explored: The checkpoint.
        batches: Normalised images, and the numbers of their samples.
    """
    rows, columns = explored.grid
    samples: list[int] = []
    parts: list[list[Tensor]] = [[], [], [], []]
    for images, numbers in batches:
        visible = torch.ones(len(images), rows * columns, dtype=torch.bool, device=images.device)
        for part, stage in zip(parts, explored.stages(images, visible), strict=True):
            part.append(patch_vectors(stage).half().cpu())
        samples += numbers
    return Neighbours(torch.tensor(samples, dtype=torch.long), [torch.cat(part) for part in parts])
