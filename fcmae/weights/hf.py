"""A directory for transformers: model, configuration and image processor.

`AutoModel` and `AutoImageProcessor` load it, as ConvNextV2Model or, for V1, as ConvNextModel. If
there is a classifier, `AutoModelForImageClassification` loads it, too. Its `patch_size` is our stem
stride.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fcmae.layers import EPS
from fcmae.run.files import staged
from fcmae.weights.metadata import Metadata, header_for
from fcmae.weights.weight_names import hf_names

try:
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForImageClassification,
        BitImageProcessor,
        ConvNextImageProcessor,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("--to hf needs the extra: pip install 'fcmae[export]'") from error

BICUBIC = 3  # Pillow's number for it, which transformers uses
STRETCHED = 384  # px from which on ConvNextImageProcessor stretches images and crops nothing


def write_hf(
    out: Path,
    tensors: Mapping[str, Tensor],
    metadata: Metadata,
    classes: Sequence[str],
    extra_header: Mapping[str, str],
) -> None:
    """Write weights as a directory that transformers loads.

    Args:
        out: the directory, which is empty or does not exist.
        tensors: the weights under our names, with a final norm.
        metadata: their metadata, out of which configuration and preprocessing are made.
        classes: names of the classifier's classes; empty without a classifier.
        extra_header: what else our files tell about these weights.

    Raises:
        FileExistsError: something other than an empty directory is at `out`.
        ValueError: the images are not square.
    """
    architecture = metadata.architecture
    family = architecture.family
    config = AutoConfig.for_model(
        family,
        num_channels=metadata.in_chans,
        patch_size=metadata.stem_stride,
        hidden_sizes=list(architecture.widths),
        depths=list(architecture.depths),
        layer_norm_eps=EPS,
        image_size=metadata.image_size[0],
        id2label=dict(enumerate(classes)),
        label2id={name: i for i, name in enumerate(classes)},
        fcmae=header_for(metadata, extra_header),
    )
    kind = AutoModelForImageClassification if classes else AutoModel
    with torch.device("meta"):
        model = kind.from_config(config)
    named = hf_names(tensors, architecture)
    if classes:
        named = {k if k.startswith("classifier.") else f"{family}.{k}": named[k] for k in named}
    model.load_state_dict(named, assign=True)
    with staged(out) as partial:
        model.save_pretrained(partial)
        image_processor(metadata).save_pretrained(partial)


def image_processor(metadata: Metadata) -> BitImageProcessor | ConvNextImageProcessor:
    """Make what resizes the shortest side, crops the centre and normalises, as `data.transforms`.

    Raises:
        ValueError: the images are not square.
    """
    height, width = metadata.image_size
    if height != width:
        raise ValueError(
            f"image_size={height}x{width} is not square, and no image processor of transformers"
            " crops images to it: take --to hub or --to onnx"
        )
    size = {"shortest_edge": height}
    mean = list(metadata.channel_mean)
    std = list(metadata.channel_std)
    if height < STRETCHED:
        return ConvNextImageProcessor(
            size=size, crop_pct=1.0, resample=BICUBIC, image_mean=mean, image_std=std
        )
    return BitImageProcessor(
        size=size, crop_size=height, resample=BICUBIC, image_mean=mean, image_std=std
    )
