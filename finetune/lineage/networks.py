"""The networks of the first years by name: torchvision's, and those that nobody ships any more."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torchvision
from torch import nn
from torchvision.models.googlenet import BasicConv2d

from fcmae.weights.metadata import Metadata
from finetune.lineage.lenet import LeNet5
from finetune.lineage.network import Network
from finetune.lineage.zfnet import ZFNet

PREFIX = "lineage:"


@dataclass(frozen=True, kw_only=True)
class Made:
    """How a network is made."""

    make: Callable[[int, int], Network]
    """Makes it, for so many channels and so many values of the head."""
    smallest: int
    """The shortest side of an image in pixels of which its last map has a site."""


def create(metadata: Metadata, outputs: int, drop_path: float, pretrained: bool) -> Network:
    """Make a network of `lineage:NAME`, with fresh weights.

    Args:
        metadata: its name, and the channels of its images.
        outputs: number of values of the head; 0 makes none.
        drop_path: rate of stochastic depth, which none of them has: 0.
        pretrained: whether weights are wanted, which none of them has here.

    Raises:
        ValueError: there is no such network, images are too small for it, or it is asked for what
            it has not.
    """
    name = metadata.model.removeprefix(PREFIX)
    if name not in NETWORKS:
        raise ValueError(
            f"backbone={metadata.model}: take {PREFIX} and one of {', '.join(NETWORKS)}"
        )
    known = NETWORKS[name]
    if min(metadata.image_size) < known.smallest:
        raise ValueError(
            f"image_size={min(metadata.image_size)} leaves {metadata.model} no site: take at least"
            f" {known.smallest}"
        )
    if drop_path or pretrained:
        raise ValueError(
            f"backbone={metadata.model} has neither stochastic depth nor pretrained weights: leave"
            " drop_path and pretrained out"
        )
    return known.make(metadata.in_chans, outputs)


def alexnet(in_chans: int, outputs: int) -> Network:
    """Make AlexNet (Krizhevsky, Sutskever and Hinton, 2012), as torchvision has it."""
    return of_layers(torchvision.models.alexnet(), in_chans, outputs)


def vgg16(in_chans: int, outputs: int) -> Network:
    """Make VGG-16 (Simonyan and Zisserman, 2014, configuration D), as torchvision has it."""
    return of_layers(torchvision.models.vgg16(), in_chans, outputs)


def of_layers(net: nn.Module, in_chans: int, outputs: int) -> Network:
    """Take one of torchvision's plain networks apart: its layers on maps, and those on vectors."""
    maps, pool, classify = net.children()
    assert isinstance(maps, nn.Sequential)
    assert isinstance(classify, nn.Sequential)
    first, head = maps[0], classify[-1]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(head, nn.Linear)
    maps[0] = for_channels(first, in_chans)
    vector = nn.Sequential(pool, nn.Flatten(), *classify[:-1])
    return Network(maps, vector, head.in_features, outputs)


def googlenet(in_chans: int, outputs: int) -> Network:
    """Make GoogLeNet (Szegedy et al., 2014), as torchvision has it, with batch normalisation.

    The two classifiers that the paper adds at middle layers for training are left out.
    """
    net = torchvision.models.googlenet(aux_logits=False, init_weights=False)
    *maps, pool, dropout, head = net.children()
    stem = maps[0]
    assert isinstance(stem, BasicConv2d)
    stem.conv = for_channels(stem.conv, in_chans)
    vector = nn.Sequential(pool, nn.Flatten(), dropout)
    return Network(nn.Sequential(*maps), vector, cast("nn.Linear", head).in_features, outputs)


def for_channels(first: nn.Conv2d, in_chans: int) -> nn.Conv2d:
    """Make the first convolution of a network again, for images of so many channels."""
    if in_chans == first.in_channels:
        return first
    kernel = cast("tuple[int, int]", first.kernel_size)
    return nn.Conv2d(
        in_chans,
        first.out_channels,
        kernel,
        cast("tuple[int, int]", first.stride),
        cast("tuple[int, int]", first.padding),
        bias=first.bias is not None,
    )


NETWORKS = {
    "lenet5": Made(make=LeNet5, smallest=16),
    "alexnet": Made(make=alexnet, smallest=63),
    "zfnet": Made(make=ZFNet, smallest=63),
    "vgg16": Made(make=vgg16, smallest=32),
    "googlenet": Made(make=googlenet, smallest=15),
}
