"""Pictures of predictions: the original, its visible patches, the prediction, both together."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from fcmae.loss import hidden_patches, statistics
from fcmae.masking import patchify, place, unpatchify

VIEWS = ("original", "visible", "prediction", "pasted")


def reconstruct(
    images: Float[Tensor, "b c h w"],
    visible: Bool[Tensor, "b n"],
    prediction: Float[Tensor, "b k ppc"],
    p: int,
) -> Float[Tensor, "b 4 c h w"]:
    """Make four views of each image: original, visible patches, prediction, both together.

    The model predicts pixels that are normalised by patch. They are shown with the mean and the
    standard deviation of the true patch, as MAE does it, since the model does not predict these.
    Patches without a value are zero, the mean of the data.

    Args:
        images: the normalised images.
        visible: True where the encoder sees the patch.
        prediction: predicted normalised pixels of the k hidden patches, in raster order.
        p: side of a patch in pixels.
    """
    h, w = images.shape[2:]
    mean, std = statistics(hidden_patches(images, visible, p, prediction.shape[1]))
    pixels = prediction.to(images.dtype) * std + mean
    predicted = rearrange(place(pixels, ~visible), "b n (p q c) -> b n p q c", p=p, q=p)
    patches = patchify(images, p)
    shown = patches.where(visible[..., None, None, None], torch.zeros_like(patches))
    views = [patches, shown, predicted, shown + predicted]
    return torch.stack([unpatchify(view, (h // p, w // p)) for view in views], dim=1)
