"""The objective: mean squared error on the normalised pixels of hidden patches (MAE, section 3)."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from fcmae.masking import indices, patchify

EPS = 1e-6


def hidden_patches(
    images: Float[Tensor, "b c h w"], visible: Bool[Tensor, "b n"], p: int, k: int
) -> Float[Tensor, "b k ppc"]:
    """Take the pixels of the k hidden patches, of side p, of each image, in raster order."""
    patches = rearrange(patchify(images, p), "b n p q c -> b n (p q c)")
    image = torch.arange(len(images), device=images.device)[:, None]
    return patches[image, indices(~visible, k)]


def statistics(
    patches: Float[Tensor, "b k ppc"],
) -> tuple[Float[Tensor, "b k 1"], Float[Tensor, "b k 1"]]:
    """Compute the mean and the standard deviation of each patch; the latter is at least 1e-3."""
    mean = patches.mean(dim=-1, keepdim=True)
    squares = (patches - mean).square().sum(dim=-1, keepdim=True)
    var = squares / (patches.shape[-1] - 1)  # Tensor.var takes ten times as long on a CPU
    return mean, (var + EPS).sqrt()


def reconstruction_loss(
    prediction: Float[Tensor, "b k ppc"],
    images: Float[Tensor, "b c h w"],
    visible: Bool[Tensor, "b n"],
    p: int,
) -> Float[Tensor, ""]:
    """Mean squared error over the normalised pixels of the k hidden patches (MAE, section 3).

    Args:
        prediction: predicted normalised pixels of the hidden patches, in raster order.
        images: the images; each patch is normalised by its own mean and standard deviation.
        visible: True where the encoder sees the patch; those patches do not enter the loss.
        p: side of a patch in pixels.
    """
    target = hidden_patches(images, visible, p, prediction.shape[1])
    mean, std = statistics(target)
    return F.mse_loss(prediction.to(images.dtype), (target - mean) / std)


class ReconstructionLoss(nn.Module):
    """`reconstruction_loss` as a part of a model, which is compiled as one.

    Args:
        p: side of a patch in pixels.
    """

    compiled_whole = True

    def __init__(self, p: int) -> None:
        super().__init__()
        self.p = p

    def forward(
        self,
        prediction: Float[Tensor, "b k ppc"],
        images: Float[Tensor, "b c h w"],
        visible: Bool[Tensor, "b n"],
    ) -> Float[Tensor, ""]:
        """Compute `reconstruction_loss` of these."""
        return reconstruction_loss(prediction, images, visible, self.p)
