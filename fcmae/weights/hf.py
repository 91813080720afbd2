"""A directory for transformers: model, configuration and image processor.

`AutoModel` and `AutoImageProcessor` load it as ConvNextV2Model or, of V1, ConvNextModel; where
there is a classifier, `AutoModelForImageClassification` too. Its `patch_size` is our stem stride.
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

BICUBIC = 3  # in Pillow's numbers, which transformers uses
STRETCHED = 384  # px from which on ConvNextImageProcessor stretches images and crops nothing


def write_hf(
    out: Path,
    tensors: Mapping[str, Tensor],
    metadata: Metadata,
    classes: Sequence[str],
    extra_header: Mapping[str, str],
) -> None:
    """Write the directory `out`.

    Args:
        out: an empty directory or none.
        tensors: under our names, complete with a final norm.
        metadata: what becomes configuration and preprocessing.
        classes: names of the classifier's classes, none without one.
        extra_header: what else files of ours tell of these weights.

    Raises:
        FileExistsError: see `staged`.
        ValueError: images that are not square.
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
    """What resizes the shortest side, crops the centre and normalises as `data.transforms` do.

    Raises:
        ValueError: images that are not square.
    """
    height, width = metadata.image_size
    if height != width:
        raise ValueError(
            f"image_size={height}x{width} is not square, and no image processor of transformers"
            " crops images to it: take --to hub or --to onnx"
        )
    size, mean, std = {"shortest_edge": height}, metadata.channel_mean, metadata.channel_std
    if height < STRETCHED:
        return ConvNextImageProcessor(
            size=size, crop_pct=1.0, resample=BICUBIC, image_mean=list(mean), image_std=list(std)
        )
    return BitImageProcessor(
        size=size, crop_size=height, resample=BICUBIC, image_mean=list(mean), image_std=list(std)
    )
