"""Grids: the mean of each of g x g cells of a map, in place of its one mean, and classifiers on it.

The mean over all positions forgets where things are, which a few cells keep. As in adaptive average
pooling, cell i of n rows has those from floor(i n / g) up to ceil((i + 1) n / g), and of columns
alike: where g does not divide n, cells overlap.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.models import VisionTransformer
from torch import Tensor, nn

from fcmae.encoders.convvit import ConvViT
from fcmae.weights.metadata import SIDES, HeadPool

WAY_OUT = "take --pool last"
MAPS, CHANNELS_LAST, TOKENS = "b d h w", "b h w d", "b (h w) d"


@runtime_checkable
class HasWidth(Protocol):
    """What all of timm's models have."""

    num_features: int


@runtime_checkable
class GivesTokens(Protocol):
    """What those of timm's models have whose last output is tokens, those of patches at the end."""

    num_prefix_tokens: int
    patch_embed: Any


def cells(maps: Float[Tensor, "b d h w"], side: int) -> Float[Tensor, "b d g g"]:
    """The mean of each cell of maps, by products: deterministic on GPUs, and known to ONNX.

    Args:
        maps: of images.
        side: number g of rows and of columns of cells.

    Raises:
        ValueError: the maps have fewer rows or columns than the grid.
    """
    height, width = maps.shape[2:]
    if height < side or width < side:
        raise ValueError(
            f"pool=grid{side} takes maps of at least {side} x {side} sites, and these have {height}"
            f" x {width}: {WAY_OUT}, or larger images, or weights with a smaller stem stride"
        )
    return shares(height, side, maps) @ maps @ shares(width, side, maps).T


def shares(sites: int | torch.SymInt, side: int, like: Tensor) -> Float[Tensor, "g n"]:
    """How much each of n sites in line counts in the mean of each of g cells.

    Args:
        sites: their number n.
        side: number g of cells.
        like: has the type and the device of the result.
    """
    site = torch.arange(sites, device=like.device)
    cell = torch.arange(side, device=like.device)[:, None]
    begin, end = cell * sites // side, ((cell + 1) * sites + side - 1) // side
    within = ((site >= begin) & (site < end)).to(like.dtype)
    return within / within.sum(1, keepdim=True)


def map_of(model: HasWidth, last: Float[Tensor, "b ..."]) -> Float[Tensor, "b d h w"]:
    """The last map of a timm model, out of what its `forward_features` gives.

    Of a vision transformer, the tokens of the patches, behind its final norm, are the map; class
    and register tokens are left out.

    Args:
        model: a model of timm.
        last: its last maps or tokens.

    Raises:
        ValueError: it is no map, and its tokens are none of patches.
    """
    return as_maps(last, *layout_of(model, last))


def layout_of(model: HasWidth, last: Float[Tensor, "b ..."]) -> tuple[str, Mapping[str, int]]:
    """The pattern of a model's last output in einops' words, and the lengths that it needs.

    Raises:
        ValueError: see `map_of`.
    """
    dim = model.num_features
    if last.ndim == 4 and last.shape[1] == dim:
        return MAPS, {}
    if last.ndim == 4 and last.shape[3] == dim:
        return CHANNELS_LAST, {}
    if last.ndim == 3 and isinstance(model, GivesTokens):
        height, width = getattr(model.patch_embed, "grid_size", (0, 0))
        if last.shape[1] == model.num_prefix_tokens + height * width:
            return TOKENS, {"h": height, "w": width}
    raise ValueError(
        f"a grid of cells takes a map of {dim} channels, and {type(model).__name__} gives"
        f" {list(last.shape[1:])} of an image: {WAY_OUT}"
    )


def as_maps(
    last: Float[Tensor, "b ..."], pattern: str, axes: Mapping[str, int]
) -> Float[Tensor, "b d h w"]:
    """Lay out what has this pattern, with these lengths; prefix tokens come before the others."""
    if pattern == TOKENS:
        last = last[:, -axes["h"] * axes["w"] :]
    return rearrange(last, f"{pattern} -> {MAPS}", **axes)


class Cells(nn.Module):
    """The pooling of a classifier on a grid.

    Args:
        side: number g of rows and of columns of cells.
        taken: the pattern of what is pooled, and the lengths that it needs, see `layout_of`.
        given: the pattern of the cells, which i and j count, as what follows takes them.
    """

    def __init__(self, side: int, taken: tuple[str, Mapping[str, int]], given: str) -> None:
        super().__init__()
        self.side = side
        self.taken = taken
        self.given = given

    def forward(self, last: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        maps = as_maps(last, *self.taken)
        return rearrange(cells(maps, self.side), f"b d i j -> {self.given}")


@torch.no_grad()
def classify_cells(model: nn.Module, pool: HeadPool, size: tuple[int, int], in_chans: int) -> None:
    """Let a timm model classify by a grid of cells, in place: its pooling and last layer change.

    Where the head has a norm behind the pooling, it is taken of each cell. The last layer, which is
    fresh, takes the cells side by side, g x g times as many values.

    Args:
        model: with a classifier; what it has learned stays.
        pool: grid2 or grid3; last changes nothing.
        size: height and width of its images.
        in_chans: their channels.

    Raises:
        ValueError: the model has no map, too small a one, or a head that does not pool it.
    """
    if pool == "last":
        return
    net: Any = model
    side = SIDES[pool]
    before = net.get_classifier()
    refusal = ValueError(
        f"pool={pool}: the classifier of {type(model).__name__} is no linear layer on the mean of a"
        f" map, as a grid needs: {WAY_OUT}"
    )
    if not isinstance(before, nn.Linear):
        raise refusal
    trains = net.training
    images = torch.zeros(1, in_chans, *size, device=before.weight.device)
    last = net.eval().forward_features(images)
    taken = layout_of(net, last)
    if isinstance(model, ConvViT):
        net.head.pool = Cells(side, taken, "b (i j) d")
    elif isinstance(model, VisionTransformer):
        net.attn_pool = Cells(side, taken, "b (i j) d")
        net.head_drop = nn.Sequential(net.head_drop, nn.Flatten(1))  # behind its norm
    elif pooling := average_of(model):
        place, averages = pooling
        flat = averages(torch.zeros(1, 1, 1, 1)).ndim == 2
        net.set_submodule(place, Cells(side, taken, "b (d i j)" if flat else "b d i j"))
    values = before.in_features * side**2
    layer = nn.Linear(values, before.out_features, bias=before.bias is not None)
    name = next(name for name, module in net.named_modules() if module is before)
    net.set_submodule(name, layer.to(before.weight))
    try:
        net.forward_head(last)
    except RuntimeError as error:  # numbers of values do not fit
        raise refusal from error
    net.train(trains)


def average_of(model: nn.Module) -> tuple[str, nn.Module] | None:
    """The name and the module that averages the last map in a timm ConvNet's head, if one does."""
    found = (
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, SelectAdaptivePool2d)
        and name.endswith("global_pool")
        and module.pool_type in ("avg", "fast")
    )
    return next(found, None)
