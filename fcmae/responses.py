"""What excites an encoder in whole images: the strongest sites of channels, and GRN's responses.

The sites that excite a channel most say what it looks for (Zeiler and Fergus 2014, figure 2). GRN
responds to a channel by its share of the norm (ConvNeXt V2, eq. 2): with n_c the norm of channel c
over the sites of an image,

    N(X)_c = n_c / (mean over channels of n + eps)
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fcmae.collapse import row_norm
from fcmae.encoder import Encoder
from fcmae.patches import patch_grid
from fcmae.sparse.gathered import Gathered
from fcmae.sparse.grn_mlp import EPS, Layers, plain

CHANNELS = 8  # of each stage
STRONGEST = 9  # sites of a channel


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Where each of n images excites k channels of a stage most, and how much."""

    channels: Int[Tensor, " k"]
    values: Float[Tensor, "n k"]
    rows: Int[Tensor, "n k"]
    columns: Int[Tensor, "n k"]


@dataclass(frozen=True, kw_only=True)
class Sites:
    """The m sites that excite each of k channels of a stage most, the strongest first."""

    channels: Int[Tensor, " k"]
    images: Int[Tensor, "k m"]
    rows: Int[Tensor, "k m"]
    columns: Int[Tensor, "k m"]
    values: Float[Tensor, "k m"]


@dataclass(frozen=True, kw_only=True)
class Responses:
    """What an encoder makes of n whole images, on the CPU.

    `grn` has, for each block that has GRN, the sum over the images of N(X)_c.
    """

    features: Float[Tensor, "n d"]
    """The mean over the positions of the last stage, before any final norm."""
    stages: tuple[Peaks, ...]
    strides: tuple[int, ...]
    """Pixels between neighbouring sites of each stage."""
    grn: tuple[Float[Tensor, " _"], ...]


class Noting(Gathered):
    """`Gathered`, which notes N(X) of each GRN as it computes it, rather than computing it twice.

    Args:
        visible, grid, count: see `Gathered`.
        grn: gets the sum of N(X) over the images, block by block.
    """

    def __init__(
        self,
        visible: Bool[Tensor, "b n"],
        grid: tuple[int, int],
        count: int | None = None,
        *,
        grn: list[Float[Tensor, " _"]],
    ) -> None:
        super().__init__(visible, grid, count)
        self.grn = grn

    def grn_mlp(self, x: Float[Tensor, "b v s s d"], mlp: Layers) -> Float[Tensor, "b v s s d"]:
        def noted(a: Float[Tensor, "b r e"]) -> Float[Tensor, "b 1 e"]:
            norm = row_norm(a)
            self.grn.append((norm / (norm.mean(-1, keepdim=True) + EPS)).sum((0, 1)))
            return norm

        return plain(x.flatten(1, 3), mlp, noted).view(x.shape)


@contextmanager
def noting(encoder: Encoder, grid: tuple[int, int]) -> Iterator[tuple[list[Peaks], list[Tensor]]]:
    """Note the peaks of each stage, and the responses of each GRN, in a forward pass inside.

    The encoder has to see all patches. It runs in the gathered layout, whatever its own is: all
    implementations give the same values.
    """
    peaks = list[Peaks]()
    grn = list[Tensor]()

    def note(_stage: nn.Module, _args: object, output: Tensor) -> None:
        peaks.append(peaks_of(output, grid))

    hooks = [stage.register_forward_hook(note) for stage in encoder.stages]
    own = encoder.sparse
    encoder.sparse = partial(Noting, grn=grn)
    try:
        yield peaks, grn
    finally:
        encoder.sparse = own
        for hook in hooks:
            hook.remove()


def peaks_of(x: Float[Tensor, "b n s s d"], grid: tuple[int, int]) -> Peaks:
    """The strongest site of each image for the channels that `channels_of` chooses.

    Args:
        x: all sites, in the gathered layout.
        grid: rows and columns of patches.
    """
    return peaks_in(rearrange(x, "b (gh gw) s t d -> b d (gh s) (gw t)", gh=grid[0], gw=grid[1]))


def peaks_in(maps: Float[Tensor, "b d h w"]) -> Peaks:
    """The strongest site of each image for the channels that `channels_of` chooses."""
    channels = channels_of(maps.shape[1])
    maps = maps[:, channels.to(maps.device)]
    values, at = maps.flatten(2).max(2)
    width = maps.shape[-1]
    return Peaks(
        channels=channels,
        values=values.cpu(),
        rows=(at // width).cpu(),
        columns=(at % width).cpu(),
    )


def channels_of(d: int) -> Int[Tensor, " k"]:
    """The channels of a stage of d channels that are looked at: eight, evenly spread.

    So they are the same at each step of a run, and what becomes of one can be seen. A choice by
    what they respond to would change from step to step, and prefer channels for their scale.
    """
    k = min(CHANNELS, d)
    return (2 * torch.arange(k) + 1) * d // (2 * k)


@runtime_checkable
class HasMaps(Protocol):
    """What encoders have that compute on whole maps."""

    def maps(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d h w"]]:
        """The maps of each level of whole images, the first ones first, and the last map."""
        ...


@torch.no_grad()
def respond(encoder: nn.Module, images: Float[Tensor, "n c h w"]) -> Responses:
    """What an encoder makes of whole images, all patches of which it sees.

    Args:
        encoder: on the device of the images; it stays as it is.
        images: normalised.
    """
    if isinstance(encoder, HasMaps):
        *stages, last = encoder.maps(images)
        return Responses(
            features=last.mean((2, 3)).cpu(),
            stages=tuple(map(peaks_in, stages)),
            strides=tuple(images.shape[2] // map_.shape[2] for map_ in stages),
            grn=(),
        )
    assert isinstance(encoder, Encoder)
    h, w = images.shape[2:]
    grid = patch_grid(h, w, encoder.patch_size)
    n = grid[0] * grid[1]
    visible = torch.ones(len(images), n, dtype=torch.bool, device=images.device)
    with noting(encoder, grid) as (peaks, grn):
        features = encoder(images, visible, n).mean(1)
    return Responses(
        features=features.cpu(),
        stages=tuple(peaks),
        strides=tuple(encoder.patch_size >> 3 - stage for stage in range(len(peaks))),
        grn=tuple(response.cpu() for response in grn),
    )


def merged(parts: Sequence[Responses]) -> Responses:
    """The responses to the images of all parts, in their order."""
    stages = [
        Peaks(
            channels=stage[0].channels,
            values=torch.cat([peaks.values for peaks in stage]),
            rows=torch.cat([peaks.rows for peaks in stage]),
            columns=torch.cat([peaks.columns for peaks in stage]),
        )
        for stage in zip(*(part.stages for part in parts), strict=True)
    ]
    grn = [torch.stack(block).sum(0) for block in zip(*(part.grn for part in parts), strict=True)]
    features = torch.cat([part.features for part in parts])
    strides = parts[0].strides
    return Responses(features=features, stages=tuple(stages), strides=strides, grn=tuple(grn))


def strongest(peaks: Peaks, count: int = STRONGEST) -> Sites:
    """The images that excite each channel most, strongest first, and the site of each in it.

    No image comes twice, which would show one thing nine times.

    Args:
        peaks: of n images.
        count: how many; where there are fewer images, all of them.
    """
    values, images = peaks.values.T.sort(dim=1, descending=True, stable=True)
    images = images[:, :count]
    rows, columns = (at.T.gather(1, images) for at in (peaks.rows, peaks.columns))
    return Sites(
        channels=peaks.channels,
        images=images,
        rows=rows,
        columns=columns,
        values=values[:, :count],
    )
