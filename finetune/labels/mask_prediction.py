"""The mask that a segmenter gives of an image file, as large as its picture."""

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from data.config import IGNORED, FittedConfig
from data.fitting import Layout, layout_of
from data.pixel_labels import resize_mask
from fcmae.run.files import replacing
from fcmae.weights.metadata import Metadata
from finetune.labels.inference import open_file, read_image, tiled
from finetune.models.compiled import Forward

TILES = 16  # of a picture, which the model takes at a time


@torch.no_grad()
def mask_of(
    forward: Forward, metadata: Metadata, path: Path, config: FittedConfig
) -> UInt8[Tensor, "h0 w0"]:
    """The class of each pixel of a file, and 255 where the model does not look.

    With `config.fit` crop, that is all beside the centre. Where tiles overlap, the mean of their
    probabilities counts.

    Args:
        forward: of a segmenter, from and to the CPU.
        metadata: how it takes images.
        path: the image file.
        config: how the file becomes what the segmenter takes.

    Raises:
        OSError: the file cannot be read.
        ValueError: it cannot be decoded, or the answers are not finite.
    """
    picture = open_file(path, metadata, config)
    size = picture.height, picture.width
    logits = tiled(forward, read_image(path, metadata, config), TILES)
    if not logits.isfinite().all():
        raise ValueError(f"{path}: the answers are not finite")
    return resize_mask(pasted(logits, layout_of(*size, metadata.image_size, config.fit)), size)


def pasted(logits: Float[Tensor, "n k h w"], layout: Layout) -> UInt8[Tensor, "h0 w0"]:
    """The class of each pixel of a picture of the layout's size, out of those of its images."""
    total = torch.zeros(logits.shape[1], *layout.size)
    for image, (top, left) in zip(logits.softmax(1), layout.corners, strict=True):
        y, x = max(0, top), max(0, left)
        place = total[:, y : top + image.shape[1], x : left + image.shape[2]]
        place += image[:, y - top :, x - left :][:, : place.shape[1], : place.shape[2]]
    return total.argmax(0).byte().masked_fill(total.sum(0) == 0, IGNORED)


def shares_of(mask: UInt8[Tensor, "h w"], classes: int) -> Float[Tensor, " k"]:
    """The share of each class among the pixels that the model looked at."""
    counts = mask[mask != IGNORED].long().bincount(minlength=classes)
    return counts / counts.sum()


def file_of(path: Path, masks: Path) -> Path:
    """Where the mask of an image file goes in a directory of masks."""
    return masks / f"{path.name}.png"


def write_mask(mask: UInt8[Tensor, "h w"], file: Path) -> None:
    """Write a mask as a PNG in 8-bit grey, as `data.pixel_labels` reads it.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(file) as partial:
        Image.fromarray(mask.numpy()).save(partial, "png")
