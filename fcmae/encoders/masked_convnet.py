"""Any of timm's ConvNets on the visible patches of images (SparK, arXiv 2301.03580)."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fcmae.architecture import Architecture
from fcmae.encoders.on_visible import OnVisible
from fcmae.masking import grid_of, indices, sites_of
from fcmae.networks import PREFIX, make_network
from fcmae.visible_encoder import VisibleEncoder


class MaskedConvNet(VisibleEncoder):
    """A ConvNet of timm, whose operations see visible sites alone while it encodes.

    Its weights have timm's names. With every patch visible, the features are timm's own. What the
    network has behind its last map, as norm or layers in front of a classifier, is left out.

    Args:
        architecture: `timm:NAME`, and the channels of its images.
        generator: source of the initial weights, which are timm's; the global one by default.

    Raises:
        ValueError: timm has no such network; or it has no feature maps, or mixes sites in a way
            that cannot be restricted to the visible ones; the message names the module.
    """

    def __init__(
        self, architecture: Architecture, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        architecture.check_encoder()
        self.patch_size = architecture.patch_size
        self.dim = architecture.dim
        with torch.random.fork_rng(devices=[]):  # timm draws from the global generator
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.net: Any = make_network(
                architecture.name.removeprefix(PREFIX),
                architecture.stem_stride,
                in_chans=architecture.in_chans,
                num_classes=0,
            )
        for part in architecture.network.behind:
            setattr(self.net, part, nn.Identity())
        levels = self.net.feature_info
        self.finer: list[str] = [levels[i]["module"] for _, i in architecture.network.finer]
        used = check(self.net, architecture)
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name in used)

    def forward(
        self,
        images: Float[Tensor, "b c h w"],
        visible: Bool[Tensor, "b n"],
        count: int | None = None,
    ) -> Float[Tensor, "b v d"]:
        """Compute the features of the visible patches in raster order.

        Args:
            images: images whose height and width are multiples of the patch side.
            visible: True where the network sees the patch; n patches in raster order, with the same
                number v of True in every row.
            count: the number v, if the caller knows it.

        Raises:
            ValueError: the sizes do not fit, or rows differ in their numbers of visible patches.
        """
        grid = grid_of(images, visible, self.patch_size)
        with OnVisible(visible, grid):
            map_ = self.net.forward_features(images)
        at_visible = indices(visible, count)[..., None]
        rows = map_.flatten(2).mT
        return rows.gather(1, at_visible.expand(-1, -1, rows.shape[2]))

    def scales(
        self,
        images: Float[Tensor, "b c h w"],
        visible: Bool[Tensor, "b n"],
        count: int | None = None,
    ) -> list[Float[Tensor, "b v _ _ _"]]:
        """Compute the features of the visible patches on up to four scales, the finest one first.

        They are the maps of timm's levels whose strides are an 8th, a quarter and half of the patch
        side, and the last map, of which `forward` takes the features.

        Args:
            images: see `forward`.
            visible: see `forward`.
            count: see `forward`.

        Raises:
            ValueError: see `forward`.
        """
        grid = grid_of(images, visible, self.patch_size)
        with OnVisible(visible, grid), self.kept(self.finer) as maps:
            maps.append(self.net.forward_features(images))
        v = indices(visible, count).shape[1]
        return [sites_of(map_, visible, v, map_.shape[2] // grid[0]) for map_ in maps]

    def maps(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Compute the maps of each level of whole images, the first ones first, and the last map.

        The levels are those of timm's `features_only`. It is done as in evaluation, and leaves the
        running statistics as they are.
        """
        training = self.net.training
        self.net.eval()
        try:
            with self.kept(level["module"] for level in self.net.feature_info) as maps:
                maps.append(self.net.forward_features(images))
        finally:
            self.net.train(training)
        return maps

    @contextmanager
    def kept(self, names: Iterable[str]) -> Iterator[list[Float[Tensor, "b _ _ _"]]]:
        """Keep what modules of the network make within the context, in the order in which they run.

        Args:
            names: of the modules.
        """
        maps = list[Tensor]()
        hooks = [
            self.net.get_submodule(name).register_forward_hook(
                lambda _, __, map_: maps.append(map_)
            )
            for name in names
        ]
        try:
            yield maps
        finally:
            for hook in hooks:
                hook.remove()


@torch.enable_grad()
def check(net: nn.Module, architecture: Architecture) -> set[str]:
    """Check that whatever stands at hidden sites, in any map, changes nothing at visible ones.

    Returns:
        The names of the parameters that the last map depends on.

    Raises:
        ValueError: a module reads hidden sites, or fails; the message names it.
    """
    p = architecture.patch_size
    draws = torch.Generator().manual_seed(0)
    visible = torch.tensor([[True, False, False, True], [False, True, True, False]])
    images = torch.randn(2, architecture.in_chans, 2 * p, 2 * p, generator=draws)
    net = copy.deepcopy(net).train()
    for parameter in net.parameters():  # at first, some scales are 0, or too small to tell
        if parameter.ndim < 2 or not parameter.any():
            parameter.data = torch.rand(parameter.shape, generator=draws) + 0.5
    runs = [
        Trace(net, OnVisible(visible, (2, 2)), fill)
        for fill in (torch.zeros_like, torch.randn_like)
    ]
    for run in runs:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                run(images)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            where = f"its module {run.running[-1]}" if any(run.running) else "it"
            raise ValueError(
                f"model name={architecture.name!r} cannot run on visible patches alone: {where}"
                f" fails ({error}); take another network"
            ) from error
    for (name, mine), (_, other) in zip(*(run.maps for run in runs), strict=True):
        if not torch.equal(mine, other):
            raise ValueError(
                f"model name={architecture.name!r} cannot run on visible patches alone: its module"
                f" {name} reads hidden ones in a way that is not known here; take another network"
            )
    runs[0].maps[-1][1].sum().backward()
    return {name for name, parameter in net.named_parameters() if parameter.grad is not None}


class Trace:
    """Runs a network, and puts something at the hidden sites of every map that a module makes.

    Args:
        net: the network.
        sites: the visible sites.
        fill: makes what is put at hidden sites, as large as the map.
    """

    def __init__(self, net: Any, sites: OnVisible, fill: Callable[[Tensor], Tensor]) -> None:
        self.net = net
        self.sites = sites
        self.fill = fill
        self.running = list[str]()  # modules, the outer ones first
        self.maps = list[tuple[str, Tensor]]()  # at visible sites, by the module that made them

    def __call__(self, images: Float[Tensor, "b c h w"]) -> None:
        """Run it once, and collect the maps."""
        hooks = list[RemovableHandle]()
        for name, module in self.net.named_modules():
            hooks.append(module.register_forward_pre_hook(partial(self.enter, name)))
            hooks.append(module.register_forward_hook(partial(self.leave, name)))
        try:
            with self.sites:
                map_ = self.net.forward_features(images)
        finally:
            for hook in hooks:
                hook.remove()
        self.maps.append(("", self.sites.filled(map_)))

    def enter(self, name: str, *_: object) -> None:
        """Remember the module that begins."""
        self.running.append(name)

    def leave(self, name: str, module: nn.Module, args: object, output: object) -> object:
        """Keep what a module has made, and exchange its hidden sites."""
        self.running.pop()
        if not isinstance(output, Tensor) or not self.sites.holds(output):
            return None
        last = output.shape[2] != output.shape[3]
        map_ = output.permute(0, 3, 1, 2) if last else output
        if map_.shape[2] != map_.shape[3]:
            return None
        mask = self.sites.at(map_.shape[2:])
        self.maps.append((name, map_.masked_fill(~mask, 0)))
        filled = torch.where(mask, map_, self.fill(map_))
        return filled.permute(0, 2, 3, 1) if last else filled
