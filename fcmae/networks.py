"""timm's ConvNets: what is to be known of them before one is made, and how one is made.

Weights have timm's names and shapes whatever the stem stride is: it only takes strides away, as
ResNets for small images do (He et al. 2016, arXiv 1512.03385, section 4.2).
"""

import difflib
import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIX = "timm:"
SIDE = 256  # pixels: a multiple of any stride of most networks
STEM_STRIDE = 4  # pixels between the sites of the first stage, in most of timm's ConvNets


@dataclass(frozen=True)
class Network:
    """Facts of a ConvNet of timm."""

    stride: int
    """Pixels between neighbouring sites of its last map: the side of a patch."""
    dim: int
    """Number of channels of its last map."""
    widths: tuple[int, ...]
    """Number of channels of the maps of its levels, the first ones first."""
    strides: tuple[int, ...]
    """Pixels between neighbouring sites of the maps of its levels."""
    behind: tuple[str, ...]
    """Its parts behind the last map, such as a norm or layers in front of a classifier."""

    @property
    def finer(self) -> tuple[tuple[int, int], ...]:
        """Sites along a patch and number of the last level with 8, 4 and 2, where there is one."""
        sides = {self.stride / stride: i for i, stride in enumerate(self.strides)}
        return tuple((side, sides[side]) for side in (8, 4, 2) if side in sides)


@lru_cache
def network(name: str, stem_stride: int = STEM_STRIDE) -> Network:
    """Look up one of timm's ConvNets, without its weights.

    Args:
        name: timm's name of it, such as `resnet50`.
        stem_stride: see `make_network`.

    Raises:
        ValueError: timm has no such network, or it has no maps of features, or their stride is no
            whole number of pixels, or its first strides cannot be taken away.
    """
    import timm  # seconds, and most runs need none of it
    import torch

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
        raise ValueError(f"model name={PREFIX + name!r}: timm has no such network{hint}")
    with torch.device("meta"):
        net: Any = timm.create_model(name, num_classes=0)
    runs = set[str]()
    for layer, module in net.named_modules():
        module.register_forward_pre_hook(lambda *_, layer=layer: runs.add(layer))
    own = net.pretrained_cfg["input_size"][1]
    maps = {side: run_on(net, side) for side in (own, SIDE)}  # some take images of one side alone
    sites = {side: map_.shape[2] for side, map_ in maps.items() if map_ is not None}
    if not sites or any(
        m is not None and m.shape[1:2] != (net.num_features,) for m in maps.values()
    ):
        raise ValueError(
            f"model name={PREFIX + name!r} has no maps of features [b, c, h, w], as a ConvNet has:"
            " take one of timm's ConvNets, such as timm:resnet18"
        )
    strides = [side // count for side, count in sites.items() if side % count == 0]
    if not strides:
        raise ValueError(
            f"model name={PREFIX + name!r} makes {sites[own]} sites of {own} pixels, so that"
            " patches of whole pixels do not tile its maps: take a network whose convolutions pad"
        )
    stride = strides[-1]
    stride = stride * stem_stride // STEM_STRIDE
    if stem_stride != STEM_STRIDE:
        take_strides_away(net, name, stem_stride)
        maps = run_on(net, 4 * stride)
        if maps is None or maps.shape[2:] != (4, 4):
            raise ValueError(
                f"stem_stride={stem_stride} does not go with {PREFIX}{name}, whose first halvings"
                " are not layers of stride 2: leave it at 4, and take larger images"
            )
    parts = {layer.split(".")[0] for layer in runs}
    return Network(
        stride=stride,
        dim=net.num_features,
        widths=tuple(level["num_chs"] for level in net.feature_info),
        strides=tuple(
            max(1, level["reduction"] * stem_stride // STEM_STRIDE) for level in net.feature_info
        ),
        behind=tuple(
            part
            for part, module in net.named_children()
            if part not in parts and [*module.parameters()]
        ),
    )


def run_on(net: Any, side: int) -> "Tensor | None":
    """Run a network without memory on images of a side; None if it gives no maps of features."""
    import torch

    with torch.device("meta"):
        try:
            maps = net.forward_features(torch.empty(2, 3, side, side))
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError):
            return None
    return maps if isinstance(maps, torch.Tensor) and maps.ndim == 4 else None


def make_network(name: str, stem_stride: int = STEM_STRIDE, **options: Any) -> "nn.Module":
    """Make one of timm's ConvNets.

    Args:
        name: timm's name of it.
        stem_stride: 4 for timm's own strides. At 2 or 1, the first one or two halvings of the
            resolution are left out, so that patches are a half or a quarter as large.
        options: what else `timm.create_model` takes.
    """
    import timm

    net = timm.create_model(name, **options)
    take_strides_away(net, name, stem_stride)
    return net


def take_strides_away(net: "nn.Module", name: str, stem_stride: int) -> None:
    """Leave out the first halvings of a network of timm's, in place; no tensor changes."""
    from torch import nn

    if stem_stride == STEM_STRIDE:
        return
    for layer, halvings in halving_layers(name):
        if halvings >= math.log2(STEM_STRIDE / stem_stride):
            continue
        module: Any = net.get_submodule(layer)
        if getattr(module, "kernel_size", None) in (2, (2, 2)) and not [*module.parameters()]:
            net.set_submodule(layer, nn.Identity())  # a pooling of two by two
        else:
            module.stride = type(module.stride)((1, 1)) if isinstance(module.stride, tuple) else 1


@lru_cache
def halving_layers(name: str) -> list[tuple[str, int]]:
    """List the layers of a network that halve the resolution, and how often it was halved before.

    Args:
        name: timm's name of the network.
    """
    import timm
    import torch
    from torch import Tensor, nn

    found = list[tuple[str, int]]()

    def note(layer: str, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        x = args[0] if args else None
        if (
            hasattr(module, "stride")
            and isinstance(x, Tensor)
            and isinstance(output, Tensor)
            and x.ndim == output.ndim == 4
            and x.shape[2] == 2 * output.shape[2]
        ):
            found.append((layer, round(math.log2(SIDE / x.shape[2]))))

    with torch.device("meta"):
        net = timm.create_model(name, num_classes=0)
        for layer, module in net.named_modules():
            module.register_forward_hook(partial(note, layer))
    run_on(net, SIDE)
    return found
