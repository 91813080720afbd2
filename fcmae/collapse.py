"""Feature collapse: how alike the channels of each block are (ConvNeXt V2, section 3 and figure 3).

For the expanded activation a of an image, with channels a_c over its r visible sites:

    distance = mean over all pairs (c, d) of (1 - cos(a_c, a_d)) / 2

Channels that all say the same give 0, unrelated ones 1/2. V1 under FCMAE falls towards 0 in the
middle of the network, V2 does not.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from fcmae.encoder import Encoder
from fcmae.layers import GrnMlp, Mlp
from fcmae.sparse import Sparse
from fcmae.sparse.gathered import Gathered
from fcmae.sparse.grn_mlp import expanded, square


def cosine_distance(a: Float[Tensor, "b r e"]) -> Float[Tensor, " b"]:
    """The equation above for each image, in O(r e): a mean of cosines is a mean's squared norm."""
    unit = F.normalize(a.float(), dim=1)  # of each channel over the sites; silent ones stay zero
    return (1 - unit.mean(2).square().sum(1)) / 2


def row_norm(a: Float[Tensor, "b r e"]) -> Float[Tensor, "b 1 e"]:
    """GRN's norm, where all rows are visible sites."""
    return square(a).sum(1, keepdim=True).sqrt()


@contextmanager
def measured(encoder: Encoder) -> Iterator[list[Float[Tensor, ""]]]:
    """Collect the distance of each block, mean over the images, of forwards in this context.

    It is measured on what the second linear layer sees: behind GELU, and GRN where there is one.

    Raises:
        ValueError: an implementation other than the gathered one, whose sites are visible ones.
    """
    if encoder.sparse is not Gathered:
        raise ValueError("the collapse metric needs --model.sparse gathered")
    found: list[Float[Tensor, ""]] = []

    def measure(mlp: Mlp | GrnMlp, args: tuple[Tensor, Sparse]) -> None:
        with torch.no_grad():
            rows = args[0].flatten(1, -2)
            if isinstance(mlp, GrnMlp):
                activation = expanded(rows, mlp, row_norm)
            else:
                activation = F.gelu(mlp.fc1(rows))
            found.append(cosine_distance(activation).mean())

    mlps = [module for module in encoder.modules() if isinstance(module, Mlp | GrnMlp)]
    hooks = [mlp.register_forward_pre_hook(measure) for mlp in mlps]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
