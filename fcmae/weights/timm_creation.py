"""The timm model that weights belong to, with fresh weights, and its preprocessing."""

from typing import Any

import timm
from torch import nn

from fcmae.encoders.convvit import ConvViT
from fcmae.networks import PREFIX, make_network
from fcmae.vits import vit
from fcmae.weights.grids import classify_cells
from fcmae.weights.metadata import Metadata
from fcmae.weights.weight_names import CLASSIFIER, VIT_CLASSIFIER


def create_timm(metadata: Metadata, num_classes: int = 0, drop_path: float = 0.0) -> nn.Module:
    """Make the timm model that weights belong to, with fresh weights.

    Its classifier, if there is one, takes what `metadata.pool` says.

    Args:
        metadata: the metadata of the weights.
        num_classes: number of classes; 0 makes no classifier.
        drop_path: the largest rate of stochastic depth, that of the last block.

    Raises:
        ValueError: see `fcmae.weights.grids.classify_cells`.
    """
    model = timms_own(metadata, num_classes, drop_path)
    if num_classes:
        classify_cells(model, metadata.pool, metadata.image_size, metadata.in_chans)
    return model


def timms_own(metadata: Metadata, num_classes: int, drop_path: float) -> nn.Module:
    """Make the timm model whose classifier takes what timm's own takes, with fresh weights.

    `timm.create_model(model, in_chans=..., patch_size=stem_stride)` does the same for stem strides
    4 and 1. At 2, timm would halve the resolution once more in the first stage, so the stem's
    convolution is exchanged instead. A size that timm lacks, or one of your own, takes depths and
    widths in place of large's.
    Of timm's networks, `fcmae.networks.make_network` tells what the stem stride is. ConvMAE, which
    timm has not, is `fcmae.encoders.convvit.ConvViT`.
    `timm.data.resolve_model_data_config` of the model is the preprocessing of `data.fitting`.

    Args:
        metadata: the metadata of the weights.
        num_classes: number of classes; 0 makes no classifier.
        drop_path: the largest rate of stochastic depth, that of the last block.
    """
    architecture = metadata.architecture
    if architecture.of_timm:
        return make_network(
            metadata.model.removeprefix(PREFIX),
            metadata.stem_stride,
            pretrained_cfg_overlay=preprocessing(metadata),
            in_chans=metadata.in_chans,
            num_classes=num_classes,
            drop_path_rate=drop_path or None,  # not every network has it
        )
    if architecture.is_convmae:
        return ConvViT(architecture, num_classes, drop_path, fused=False)
    if architecture.is_vit:
        return timm.create_model(
            vit(metadata.model).timm,
            pretrained_cfg={
                **preprocessing(metadata),
                "fixed_input_size": True,
                "num_classes": num_classes,
                "first_conv": "patch_embed.proj",
                "classifier": VIT_CLASSIFIER.rstrip("."),
            },
            num_classes=num_classes,
            drop_path_rate=drop_path,
            **vit_args(metadata),
        )
    name = metadata.model if timm.is_model(metadata.model) else f"{architecture.family}_large"
    model = timm.create_model(
        name,
        pretrained_cfg={
            **preprocessing(metadata),
            "num_classes": num_classes,
            "first_conv": "stem.0",
            "classifier": CLASSIFIER.rstrip("."),
        },
        in_chans=metadata.in_chans,
        num_classes=num_classes,
        depths=architecture.size.depths,
        dims=architecture.size.widths,
        drop_path_rate=drop_path,
        patch_size=1 if metadata.stem_stride == 1 else 4,
    )
    if metadata.stem_stride == 2:
        stem = model.get_submodule("stem")
        assert isinstance(stem, nn.Sequential)
        stem[0] = nn.Conv2d(metadata.in_chans, architecture.size.widths[0], kernel_size=2, stride=2)
    return model


def vit_args(metadata: Metadata) -> dict[str, Any]:
    """The arguments of timm's ViT, whose pooled feature is the mean of the patches' tokens.

    They are pooled behind the final norm, which is MAE's of pretraining.
    """
    return {
        "in_chans": metadata.in_chans,
        "img_size": metadata.image_size,
        "patch_size": metadata.architecture.patch_size,
        "global_pool": "avg",
        "fc_norm": False,
    }


def preprocessing(metadata: Metadata) -> dict[str, Any]:
    """What `timm.data.create_transform` takes for the preprocessing of `data.fitting.Fitted`."""
    return {
        "input_size": (metadata.in_chans, *metadata.image_size),
        "mean": metadata.channel_mean,
        "std": metadata.channel_std,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
