"""Encoder weights as models of timm, and files that timm loads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import timm
import torch
from safetensors.torch import save_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from fcmae.run import checkpoint
from fcmae.run.files import replacing
from fcmae.weights.files import read_converted
from fcmae.weights.metadata import Metadata, header_for
from fcmae.weights.weight_names import CLASSIFIER, complete, count_classes


@runtime_checkable
class TimmModel(Protocol):
    """What timm's models of images have beside what every module has."""

    num_features: int

    def forward_features(self, x: Tensor, /) -> Tensor:
        """Maps or tokens before pooling and head."""
        ...

    def forward_head(self, x: Tensor, /, *, pre_logits: bool = False) -> Tensor:
        """Logits of what `forward_features` gave, or with `pre_logits` the pooled features."""
        ...

    def get_classifier(self) -> nn.Module:
        """The layer that gives the logits."""
        ...

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters belong to which layer, for `timm.models.group_parameters`."""
        ...


@runtime_checkable
class FeatureMaps(Protocol):
    """What those of timm's models have that give the maps of several of their levels."""

    feature_info: Sequence[Mapping[str, Any]]

    def forward_intermediates(
        self, x: Tensor, /, indices: int | list[int], *, intermediates_only: bool
    ) -> list[Tensor]:
        """Maps `[b, c, h, w]` of the levels at `indices`, or of the last that many."""
        ...

    def prune_intermediate_layers(
        self, indices: int | list[int], *, prune_norm: bool = False
    ) -> list[int]:
        """Take off what lies behind these levels; their indices."""
        ...


@runtime_checkable
class NoWeightDecay(Protocol):
    """What those of timm's models have that name parameters which must not decay."""

    def no_weight_decay(self) -> set[str]:
        """Names of such parameters beside biases and norms, as a position embedding."""
        ...


def imagenet_statistics() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of ImageNet's channels, with which files that tell none were trained."""
    return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


def create_timm(metadata: Metadata, num_classes: int = 0, drop_path: float = 0.0) -> nn.Module:
    """The timm model that the weights belong to, with fresh weights.

    `timm.create_model(model, in_chans=..., patch_size=stem_stride)` does the same for stem strides
    4 and 1. At 2, timm would halve the resolution once more in the first stage, so the stem's
    convolution is exchanged instead. timm has no V1 huge: its large takes the widths.
    `timm.data.resolve_model_data_config` of it is the preprocessing of `data.transforms`.

    Args:
        metadata: of the weights.
        num_classes: of the classifier; none by default.
        drop_path: the largest rate of stochastic depth, that of the last block.
    """
    architecture = metadata.architecture
    name = metadata.model if timm.is_model(metadata.model) else "convnext_large"
    model = timm.create_model(
        name,
        pretrained_cfg={
            "input_size": (metadata.in_chans, *metadata.image_size),
            "mean": metadata.channel_mean,
            "std": metadata.channel_std,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "num_classes": num_classes,
            "first_conv": "stem.0",
            "classifier": CLASSIFIER.rstrip("."),
        },
        in_chans=metadata.in_chans,
        num_classes=num_classes,
        depths=architecture.depths,
        dims=architecture.widths,
        drop_path_rate=drop_path,
        patch_size=1 if metadata.stem_stride == 1 else 4,
    )
    if metadata.stem_stride == 2:
        stem = model.get_submodule("stem")
        assert isinstance(stem, nn.Sequential)
        stem[0] = nn.Conv2d(metadata.in_chans, architecture.widths[0], kernel_size=2, stride=2)
    return model


def to_timm(tensors: Mapping[str, Tensor], metadata: Metadata) -> dict[str, Tensor]:
    """An encoder's tensors in timm's shapes, with a final norm.

    Args:
        tensors: under our names, as an encoder's state dict or `weight_names.canonical` has them.
        metadata: of these weights.
    """
    with torch.device("meta"):
        model = create_timm(metadata, count_classes(tensors))
    return in_shapes_of(model, tensors)


def as_timm(tensors: Mapping[str, Tensor], metadata: Metadata) -> nn.Module:
    """The timm model with an encoder's weights, and with their classifier if there is one.

    Args:
        tensors: under our names, as an encoder's state dict or `weight_names.canonical` has them.
        metadata: of these weights.
    """
    model = create_timm(metadata, count_classes(tensors))
    model.load_state_dict(in_shapes_of(model, tensors))
    return model


def in_shapes_of(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of timm's `model`; its smaller models hold linear layers as 1x1 convolutions."""
    source = complete(tensors)
    target = model.state_dict()
    assert source.keys() == target.keys(), sorted(source.keys() ^ target.keys())
    return {k: v.reshape(target[k].shape).contiguous() for k, v in source.items()}


def save_timm(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: Metadata,
    extra_header: Mapping[str, str] | None = None,
) -> None:
    """Write timm weights with their metadata in the header, and what else is to stand there."""
    header = {"format": "pt", **header_for(metadata, extra_header or {})}
    with replacing(path) as partial:
        save_file(tensors, partial, metadata=header)


def load_timm(
    path: Path, num_classes: int = 0, drop_path: float = 0.0
) -> tuple[nn.Module, Metadata]:
    """A timm model with converted weights, and their metadata; a classifier starts fresh.

    A classifier in the file is of other classes and stays there: `timm.create_model(model,
    num_classes=..., checkpoint_path=path)` loads it too.

    Args:
        path: what `python -m fcmae.convert --to timm` or fine-tuning wrote.
        num_classes: of the fresh classifier; none by default.
        drop_path: see `create_timm`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `open_converted`; or the tensors are not the model's.
    """
    tensors, metadata, _ = read_converted(path)
    model = create_timm(metadata, num_classes, drop_path)
    kept = {k: v for k, v in tensors.items() if not k.startswith(CLASSIFIER)}
    fresh = {k: v for k, v in model.state_dict().items() if k.startswith(CLASSIFIER)}
    checkpoint.fill(model.state_dict(), kept | fresh, path)
    return model, metadata
