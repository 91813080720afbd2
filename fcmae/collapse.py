"""Feature collapse: how alike the channels of each block are (ConvNeXt V2, section 3 and figure 3).

For the expanded activation a of an image, with channels a_c over its r visible sites:

    distance = mean over all pairs (c, d) of (1 - cos(a_c, a_d)) / 2

The distance is 0 if all channels are alike and 1/2 if they are unrelated. In V1 pretrained with
FCMAE it falls towards 0 in the middle of the network; in V2 it does not.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fcmae.encoder import Encoder
from fcmae.layers import GrnMlp, Mlp
from fcmae.sparse import Sparse
from fcmae.sparse.gathered import Gathered
from fcmae.sparse.grn_mlp import expanded, square


def cosine_distance(a: Float[Tensor, "b r e"]) -> Float[Tensor, " b"]:
    """Mean cosine distance between the e channels of each image, over its r visible sites.

    It takes O(r e): the mean of all cosines is the squared norm of the mean unit vector.
    """
    unit = F.normalize(a.float(), dim=1)  # of each channel over the sites; silent ones stay zero
    return (1 - unit.mean(2).square().sum(1)) / 2


def row_norm(a: Float[Tensor, "b r e"]) -> Float[Tensor, "b 1 e"]:
    """The norm of each channel over the r visible sites of an image, as GRN takes it."""
    return square(a).sum(1, keepdim=True).sqrt()


@contextmanager
def measured(encoder: nn.Module) -> Iterator[list[Float[Tensor, ""]]]:
    """Measure the feature distance of each block in the forward passes of this context.

    It is measured on the input of the second linear layer: after GELU, and GRN if there is one.

    Yields:
        A list, to which each block of a forward pass adds its distance, a mean over the images.

    Raises:
        ValueError: the encoder does not use the gathered implementation, in which every site is a
            visible one.
    """
    if not isinstance(encoder, Encoder) or encoder.sparse is not Gathered:
        raise ValueError("the collapse metric needs --model.sparse gathered")
    distances: list[Float[Tensor, ""]] = []

    def measure(mlp: Mlp | GrnMlp, args: tuple[Tensor, Sparse]) -> None:
        with torch.no_grad():
            rows = args[0].flatten(1, -2)
            if isinstance(mlp, GrnMlp):
                activation = expanded(rows, mlp, row_norm)
            else:
                activation = F.gelu(mlp.fc1(rows))
            distances.append(cosine_distance(activation).mean())

    mlps = [module for module in encoder.modules() if isinstance(module, Mlp | GrnMlp)]
    hooks = [mlp.register_forward_pre_hook(measure) for mlp in mlps]
    try:
        yield distances
    finally:
        for hook in hooks:
            hook.remove()
