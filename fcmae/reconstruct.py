"""Predictions as pictures: original, visible patches, prediction, and the two together."""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.utils import save_image

from fcmae.loss import hidden_patches, statistics
from fcmae.masking import indices, patchify, unpatchify


def reconstruct(
    images: Float[Tensor, "b c h w"],
    visible: Bool[Tensor, "b n"],
    prediction: Float[Tensor, "b k ppc"],
    p: int,
) -> Float[Tensor, "b 4 c h w"]:
    """Four views of each image: original, visible only, prediction alone, and the two together.

    The model predicts pixels normalised per patch; they are shown with the true patch's own mean
    and deviation, as MAE shows them, since the model is never asked for these. Patches without a
    value are zero, which is the data's mean.
    """
    b, c, h, w = images.shape
    mean, std = statistics(hidden_patches(images, visible, p, prediction.shape[1]))
    pixels = prediction.to(images.dtype) * std + mean
    at_hidden = indices(~visible, prediction.shape[1])[..., None].expand_as(pixels)
    blank = images.new_zeros(b, visible.shape[1], p * p * c)
    predicted = rearrange(blank.scatter(1, at_hidden, pixels), "b n (p q c) -> b n p q c", p=p, q=p)
    patches = patchify(images, p)
    seen = patches.where(visible[..., None, None, None], torch.zeros_like(patches))
    views = [patches, seen, predicted, seen + predicted]
    return torch.stack([unpatchify(view, (h // p, w // p)) for view in views], dim=1)


def save_views(views: Float[Tensor, "b k c h w"], path: Path) -> None:
    """Write them as a PNG, one row an image; values in 0 to 1, the first three channels."""
    pixels = views.flatten(0, 1)
    colours = pixels[:, :3] if pixels.shape[1] >= 3 else pixels[:, :1]
    path.parent.mkdir(exist_ok=True)
    save_image(colours, path, nrow=views.shape[1], padding=2, pad_value=1.0)
