"""The model of segmentation: a backbone's four stages, a feature pyramid, one sum of its levels.

Source: Kirillov et al., *Panoptic Feature Pyramid Networks*, CVPR 2019, section 3.2 (Semantic FPN).
Levels are doubled to the size of the next finer one, whatever that is, rather than by 2, so that
strides of stems and sides of images are free.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

from fcmae.run.json_files import field_of, parse_json
from fcmae.run.whole_tensors import fill
from fcmae.weights.metadata import SEGMENTER, Metadata
from fcmae.weights.safetensors_files import read_converted
from fcmae.weights.timm_models import save_timm
from fcmae.weights.timm_protocols import FeatureMaps
from finetune.models import classifier
from finetune.models.config import BackboneConfig
from finetune.training.augment import seeded

STAGES = 4
WIDEST = 2**16  # channels of a head
NORM_GROUPS = 32  # of channels, as in the paper


class SemanticFPN(nn.Module):
    """Logits at the finest of the feature maps.

    Args:
        channels: of the feature maps, from the finest on.
        classes: how many.
        width: channels of the pyramid and of the branches.

    Raises:
        ValueError: the width is no multiple of 32.
    """

    def __init__(self, channels: Sequence[int], classes: int, width: int) -> None:
        super().__init__()
        if width < 1 or width % NORM_GROUPS:
            raise ValueError(f"head_width={width} must be a multiple of {NORM_GROUPS}")
        self.pyramid = FeaturePyramidNetwork(list(channels), width)
        # a level is convolved once on its way to each finer one, the finest once where it is
        self.branches = nn.ModuleList(
            nn.ModuleList(refine(width) for _ in range(max(1, level)))
            for level in range(len(channels))
        )
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, features: list[Tensor]) -> Float[Tensor, "b k h w"]:
        levels = self.pyramid({str(i): x for i, x in enumerate(features)}).values()
        sizes = [x.shape[-2:] for x in features]
        merged = []
        for level, (x, branch) in enumerate(zip(levels, self.branches, strict=True)):
            finer = sizes[:level][::-1] or sizes[:1]
            for block, size in zip(cast("nn.ModuleList", branch), finer, strict=True):
                x = F.interpolate(block(x), size, mode="bilinear")
            merged.append(x)
        return self.classify(sum(merged))


def refine(width: int) -> nn.Sequential:
    """A 3x3 convolution, group norm, ReLU."""
    convolution = nn.Conv2d(width, width, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(NORM_GROUPS, width), nn.ReLU())


class Segmenter(nn.Module):
    """A backbone and a head that gives logits for every pixel.

    Args:
        backbone: a model of timm; what lies behind its stages is taken off.
        classes: how many.
        width: channels of the head.

    Raises:
        ValueError: the backbone does not give four feature maps; see `SemanticFPN`.
    """

    def __init__(self, backbone: nn.Module, classes: int, width: int) -> None:
        super().__init__()
        if not isinstance(backbone, FeatureMaps) or len(backbone.feature_info) < STAGES:
            raise ValueError(
                f"backbone {type(backbone).__name__} does not give the {STAGES} feature maps that"
                " segmentation needs: choose another, as a ConvNeXt, ResNet or EfficientNet"
            )
        self.indices = backbone.prune_intermediate_layers(STAGES, prune_norm=True)
        self.backbone = backbone
        channels = [backbone.feature_info[i]["num_chs"] for i in self.indices]
        self.head = SemanticFPN(channels, classes, width)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        backbone = self.backbone
        features = backbone.forward_intermediates(images, self.indices, intermediates_only=True)
        return F.interpolate(self.head(features), images.shape[-2:], mode="bilinear")


def create(
    config: BackboneConfig,
    classes: int,
    width: int,
    seed: int,
    say: Callable[[str], object] = print,
) -> tuple[Segmenter, Metadata]:
    """The model with a fresh head, and how it takes images; see `classifier.create`.

    Raises:
        OSError: see `finetune.models.classifier.create`.
        ValueError: see the same and `Segmenter`.
    """
    backbone, metadata = classifier.create(config, 0, seed, say)
    with seeded("head", seed):
        model = Segmenter(backbone, classes, width)
        classifier.start_head(model.head.classify, config.head_init_scale)
    return model, metadata


def save(path: Path, model: Segmenter, metadata: Metadata, names: Sequence[str]) -> None:
    """Write the weights; what `load` makes the model of is in the header."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_timm(path, tensors, metadata, {SEGMENTER: about(model, names)})


def about(model: Segmenter, names: Sequence[str]) -> str:
    """What a header tells of the head: the names of its classes and its width, as JSON."""
    return json.dumps({"names": list(names), "width": model.head.classify.in_channels})


def load(path: Path) -> tuple[Segmenter, Metadata, tuple[str, ...]]:
    """A segmenter as `save` wrote it, and the names of its classes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it has no such head, or its tensors are not those of its model.
    """
    tensors, metadata, extra_header = read_converted(path)
    if SEGMENTER not in extra_header:
        raise ValueError(
            f"{path} has no segmentation head; make it with fcmae segment, or write"
            " a classifier with python -m fcmae.convert"
        )
    try:
        told = parse_json(extra_header[SEGMENTER], "it", dict)
        names: tuple[str, ...] = field_of(told, "names", tuple[str, ...])
        width: int = field_of(told, "width", int)
        if not names or not 0 < width <= WIDEST:
            raise ValueError("it names no classes, or no width of a head")
    except ValueError as error:
        raise ValueError(
            f"{path}: the metadata under {SEGMENTER!r} are damaged: {error}"
        ) from error
    model = Segmenter(classifier.create_any(metadata, 0), len(names), width)
    fill(model.state_dict(), tensors, path)
    return model, metadata, names
