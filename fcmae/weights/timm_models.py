"""Encoder weights as timm's models, and in files that timm loads."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import timm
import torch
from jaxtyping import Float
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from fcmae.encoders.convvit import ConvViT
from fcmae.networks import PREFIX, make_network
from fcmae.run.files import replacing
from fcmae.vits import vit
from fcmae.weights.convmaes import model_with
from fcmae.weights.files import read_weights
from fcmae.weights.grids import cells, classify_cells, map_of
from fcmae.weights.metadata import SIDES, HeadPool, Metadata, header_for
from fcmae.weights.networks import bare, classes_of, shapes_of
from fcmae.weights.saving import save_tensors
from fcmae.weights.vits import with_positions
from fcmae.weights.weight_names import (
    CLASSIFIER,
    VIT_CLASSIFIER,
    classifier_of,
    complete,
    count_classes,
)


@runtime_checkable
class TimmModel(Protocol):
    """What timm's image models have in addition to other modules."""

    num_features: int

    def forward_features(self, x: Tensor, /) -> Tensor:
        """Compute the maps or tokens before pooling and head."""
        ...

    def forward_head(self, x: Tensor, /, *, pre_logits: bool = False) -> Tensor:
        """Compute logits from the output of `forward_features`, or pool it, with `pre_logits`."""
        ...

    def get_classifier(self) -> nn.Module:
        """Return the layer that computes the logits."""
        ...

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tell which parameters belong to which layer, for `timm.models.group_parameters`."""
        ...


@runtime_checkable
class FeatureMaps(Protocol):
    """What those of timm's models have that return the maps of several levels."""

    feature_info: Sequence[Mapping[str, Any]]

    def forward_intermediates(
        self, x: Tensor, /, indices: int | list[int], *, intermediates_only: bool
    ) -> list[Tensor]:
        """Compute maps `[b, c, h, w]` of the levels at `indices`, or of that many last levels."""
        ...

    def prune_intermediate_layers(
        self, indices: int | list[int], *, prune_norm: bool = False
    ) -> list[int]:
        """Remove the layers after these levels, and return the indices of the levels."""
        ...


@runtime_checkable
class NoWeightDecay(Protocol):
    """What those of timm's models have that name parameters without weight decay."""

    def no_weight_decay(self) -> set[str]:
        """Name such parameters, as position embeddings; biases and norms are not among them."""
        ...


def pooled(
    model: TimmModel, last: Float[Tensor, "b ..."], pool: HeadPool = "last"
) -> Float[Tensor, "b d"]:
    """Pool what `forward_features` gives to one feature an image.

    It is the mean over the positions of maps [b, d, h, w]: the final norm of a ConvNet, which FCMAE
    does not train, is left out. Tokens, and channels that are last, are pooled by timm's own head.
    With `pool` grid2 or grid3, it is the means of 2 x 2 or 3 x 3 cells of the map, the cells of a
    channel next to each other: of a ConvNet's map without the final norm, and of a vision
    transformer's tokens behind it.

    Args:
        model: a model of timm.
        last: its last maps or tokens.
        pool: what is pooled.

    Raises:
        ValueError: see `fcmae.weights.grids.map_of` and `cells`.
    """
    if pool != "last":
        return cells(map_of(model, last), SIDES[pool]).flatten(1)
    if last.ndim == 4 and last.shape[1] == model.num_features:
        return last.mean((2, 3))
    return model.forward_head(last, pre_logits=True)


def imagenet_statistics() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation of ImageNet's channels, on the scale 0 to 1.

    Files without metadata are taken to be trained with them.
    """
    return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


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


def to_timm(tensors: Mapping[str, Tensor], metadata: Metadata) -> dict[str, Tensor]:
    """Bring an encoder's tensors into timm's shapes, with a final norm.

    Args:
        tensors: the weights under our names, such as an encoder's state dict.
        metadata: their metadata.
    """
    if metadata.architecture.of_timm:
        return as_timm(tensors, metadata).state_dict()
    if metadata.architecture.is_convmae:
        return {name: tensor.contiguous() for name, tensor in tensors.items()}
    whole = with_positions(tensors, metadata.architecture)
    return in_shapes(shapes_in_timm(metadata, count_classes(tensors)), whole)


@lru_cache
def shapes_in_timm(metadata: Metadata, num_classes: int) -> dict[str, torch.Size]:
    """List the shape of each tensor of the timm model that weights belong to.

    Args:
        metadata: the metadata of the weights.
        num_classes: number of classes; 0 makes no classifier.
    """
    with torch.device("meta"):
        model = create_timm(metadata, num_classes)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def as_timm(tensors: Mapping[str, Tensor], metadata: Metadata) -> nn.Module:
    """Make the timm model with an encoder's weights, and with their classifier if there is one.

    What a network of timm has behind its last map starts as timm starts it, unless it is given.

    Args:
        tensors: the weights under our names, such as an encoder's state dict.
        metadata: their metadata.
    """
    if metadata.architecture.of_timm:
        own = bare(tensors)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same each time
            model = create_timm(metadata, classes_of(own, metadata.architecture))
        model.load_state_dict(model.state_dict() | own)
        return model
    if metadata.architecture.is_convmae:
        return model_with(tensors, metadata, count_classes(tensors))
    model = create_timm(metadata, count_classes(tensors))
    model.load_state_dict(in_shapes_of(model, with_positions(tensors, metadata.architecture)))
    return model


def in_shapes_of(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors into the shapes of a timm model, which may hold 1x1 convolutions."""
    return in_shapes({name: own.shape for name, own in model.state_dict().items()}, tensors)


def in_shapes(shapes: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors into the shapes of a timm model's tensors of the same names."""
    source = complete(tensors)
    assert source.keys() == shapes.keys(), sorted(source.keys() ^ shapes.keys())
    return {k: v.reshape(shapes[k]).contiguous() for k, v in source.items()}


def save_timm(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: Metadata,
    extra_header: Mapping[str, str] | None = None,
) -> None:
    """Write weights in timm's shapes as a safetensors file.

    Args:
        path: the file.
        tensors: the weights, as `to_timm` makes them.
        metadata: their metadata, for the header.
        extra_header: further entries of the header.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as partial:
        save_tensors(partial, tensors, header_for(metadata, extra_header or {}))


def load_timm(
    source: str | Path,
    num_classes: int = 0,
    drop_path: float = 0.0,
    say: Callable[[str], object] = print,
) -> tuple[nn.Module, Metadata]:
    """Load weights into a timm model with a fresh classifier.

    A classifier in the file is left out; `timm.create_model(model, num_classes=...,
    checkpoint_path=path)` loads that of a converted file.

    Args:
        source: whatever `fcmae.weights.files.read_weights` reads and that tells image size, mean
            and standard deviation.
        num_classes: number of classes; 0 makes no classifier.
        drop_path: the largest rate of stochastic depth, that of the last block.
        say: prints a sentence about what was fetched, such as its licence, or chosen.

    Returns:
        The model, and the metadata of the weights.

    Raises:
        OSError: the source cannot be read or fetched.
        ValueError: its tensors are not those of one whole encoder, or it lacks metadata.
    """
    weights = read_weights(source)
    metadata = weights.told_metadata(source).without_classifier
    for note in weights.notes:
        say(note)
    if metadata.architecture.is_convmae:
        encoder = {k: v for k, v in weights.tensors.items() if not k.startswith(CLASSIFIER)}
        return model_with(encoder, metadata, num_classes, drop_path), metadata
    model = create_timm(metadata, num_classes, drop_path)
    if metadata.architecture.of_timm:
        names = shapes_of(metadata.architecture)
        network = {k: v for k, v in weights.tensors.items() if k in names}
        model.load_state_dict(model.state_dict() | network)
        return model, metadata
    head = classifier_of(metadata.architecture)
    kept = {k: v for k, v in weights.tensors.items() if not k.startswith(head)}
    fresh = {k: v for k, v in model.state_dict().items() if k.startswith(head)}
    model.load_state_dict(in_shapes_of(model, kept | fresh))
    return model, metadata
