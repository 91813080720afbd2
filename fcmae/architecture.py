"""An encoder and the images that it is made for: scales, patches, and the rules that all follow.

Everything that makes, reads or plans a network asks here. This module does not import torch, so
that a help text or a plan does not load it.

Letters: p patch side in pixels, n = (h/p)(w/p) patches.
"""

from dataclasses import dataclass

from fcmae import convmaes, convnexts, vits
from fcmae.networks import PREFIX, Network, network
from fcmae.patches import patch_grid, sides_of
from fcmae.run.ranges import DepthFrom1, Extent

STEM_STRIDES = (4, 2, 1)


@dataclass(frozen=True)
class Scale:
    """A resolution at which an encoder has features of the visible patches."""

    side: int
    """Side s of a patch in sites, a power of 2; 1 on the last scale."""
    width: int
    """Number of channels."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An encoder, and the images that it is made for.

    It may hold any values; `check` raises an error where no such encoder exists.
    """

    name: str = "convnextv2_atto"
    """The encoder: convnextv2_SIZE, or convnext_SIZE for V1, where SIZE is atto, femto, pico, nano,
    tiny, small, base, large, xlarge or huge; convnextv2 or convnext alone, with depths and widths
    of your own; timm:NAME, any ConvNet of timm; mae_vit_SIZE, MAE's ViT, where SIZE is tiny, small,
    base or large; or convmae_SIZE, ConvMAE's, where SIZE is small, base or large."""
    image_size: Extent | tuple[Extent, Extent] = 224
    """The images' side, or height and width, in pixels: multiples of the patch side, 8 x
    stem_stride (of mae_vit_SIZE and convmae_SIZE 4 x, of timm:NAME the network's stride)."""
    in_chans: Extent = 3
    """Number of channels of the images."""
    stem_stride: Extent = 4
    """4, 2 or 1, for patches of 32, 16 or 8 pixels, and of mae_vit_SIZE and convmae_SIZE
    16, 8 or 4. Small images need small patches. Of timm:NAME, 4 leaves strides as they are, and 2
    or 1 leaves out the first one or two halvings."""
    depths: tuple[DepthFrom1, DepthFrom1, DepthFrom1, DepthFrom1] | None = None
    """Numbers of blocks of the four stages of a ConvNeXt; None for those of its size."""
    widths: tuple[Extent, Extent, Extent, Extent] | None = None
    """Numbers of channels of the four stages of a ConvNeXt; None for those of its size."""

    def __str__(self) -> str:
        own = [f"{name}={value}, " for name, value in self.own.items()]
        return (
            f"{self.name} with {''.join(own)}stem_stride={self.stem_stride} and"
            f" in_chans={self.in_chans}"
        )

    @property
    def own(self) -> dict[str, tuple[int, ...]]:
        """The depths and the widths, by these names, where they are not those of the size."""
        given = {"depths": self.depths, "widths": self.widths}
        return {name: values for name, values in given.items() if values is not None}

    @property
    def of_timm(self) -> bool:
        """Whether the network is one of timm's, run on visible patches as it is."""
        return self.name.startswith(PREFIX)

    @property
    def is_vit(self) -> bool:
        """Whether the encoder is a vision transformer, as MAE pretrains it."""
        return self.name.startswith(vits.PREFIX)

    @property
    def is_convnext(self) -> bool:
        """Whether the encoder is a ConvNeXt of this project, of V1 or V2."""
        return self.family in convnexts.FAMILIES

    @property
    def is_convmae(self) -> bool:
        """Whether the encoder is ConvMAE's: two stages of convolutions, then a transformer."""
        return self.name.startswith(convmaes.PREFIX)

    @property
    def attends(self) -> bool:
        """Whether patches attend to each other, and the decoder is MAE's."""
        return self.is_vit or self.is_convmae

    @property
    def network(self) -> Network:
        """Facts of one of timm's networks.

        Raises:
            ValueError: there is no such network, or it makes no maps that patches tile.
        """
        return network(self.name.removeprefix(PREFIX), self.stem_stride)

    @property
    def family(self) -> str:
        """The family: `convnextv2`, whose blocks have GRN, or `convnext`, with LayerScale.

        MAE's is `mae_vit`, and that of timm's networks their name.
        """
        if self.is_vit:
            return vits.PREFIX.rstrip("_")
        return self.name.removeprefix(PREFIX) if self.of_timm else self.name.split("_")[0]

    @property
    def has_grn(self) -> bool:
        """Whether the blocks have global response normalisation, as those of V2 have."""
        return self.family == "convnextv2"

    @property
    def size(self) -> convnexts.Size:
        """Numbers of blocks and of channels of the four stages."""
        if self.depths is not None and self.widths is not None:
            return convnexts.Size(self.depths, self.widths)
        named = convnexts.SIZES[self.name.split("_")[1]]
        return convnexts.Size(self.depths or named.depths, self.widths or named.widths)

    @property
    def dim(self) -> int:
        """Width of the features: the number of channels on the last scale."""
        return self.scales[-1].width

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The resolutions that the encoder's `scales` have, the finest one first: up to four."""
        if self.of_timm:
            widths = self.network.widths
            finer = (Scale(side, widths[level]) for side, level in self.network.finer)
            return (*finer, Scale(1, self.network.dim))
        if self.is_vit:
            return (Scale(1, vits.vit(self.name).dim),)
        if self.is_convmae:
            return tuple(map(Scale, (4, 2, 1), convmaes.convmae(self.name).widths))
        return tuple(map(Scale, (8, 4, 2, 1), self.size.widths))

    @property
    def patch_size(self) -> int:
        """Side p of a patch in pixels: the stem's stride, and three downsamplings by 2.

        Of timm's networks, what their strides make.
        """
        if self.of_timm:
            return self.network.stride
        if self.is_vit:
            return vits.STRIDES * self.stem_stride
        if self.is_convmae:
            return convmaes.STRIDES * self.stem_stride
        return convnexts.STRIDES * self.stem_stride

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return sides_of(self.image_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of rows and columns of patches in an image.

        Raises:
            ValueError: patches do not tile the images.
        """
        return patch_grid(*self.sides, self.patch_size)

    @property
    def patches(self) -> int:
        """Number n of patches in an image.

        Raises:
            ValueError: patches do not tile the images.
        """
        rows, columns = self.grid
        return rows * columns

    def same_tensors(self, other: "Architecture") -> bool:
        """Whether the weights of one encoder fit the other, whatever the image sizes are."""
        mine, others = (
            (a.size if a.is_convnext else a.name, a.family, a.in_chans, a.stem_stride)
            for a in (self, other)
        )
        return mine == others

    def check_encoder(self) -> None:
        """Check everything except the image size, which no tensor of an encoder depends on.

        Raises:
            ValueError: a value is out of range; the message names it, the rule and a way out.
        """
        if self.stem_stride not in STEM_STRIDES:
            patches = "16, 8, 4" if self.attends else "32, 16, 8"
            raise ValueError(
                f"stem_stride={self.stem_stride} must be 4, 2 or 1 (patches of {patches})"
            )
        if self.of_timm:
            _ = self.network  # looks it up
        elif self.is_vit:
            vits.vit(self.name)
        elif self.is_convmae:
            convmaes.convmae(self.name)
        elif self.name in convnexts.FAMILIES:
            if len(self.own) < 2:
                raise ValueError(
                    f"model name={self.name!r} has no size: take {self.name}_atto or a larger one,"
                    " or give both depths and widths, such as 2 2 6 2 and 40 80 160 320"
                )
        elif self.name not in convnexts.NAMES:
            known = ", ".join(convnexts.NAMES + vits.NAMES + convmaes.NAMES)
            raise ValueError(f"model name={self.name!r} is none of {known}, and not timm:NAME")
        self.check_own()
        if self.in_chans < 1:
            raise ValueError(f"in_chans={self.in_chans} must be at least 1")

    def check_own(self) -> None:
        """Check the depths and the widths, where they are given.

        Raises:
            ValueError: one of them is below 1, or the network has its own.
        """
        for name, values in self.own.items():
            if not self.is_convnext:
                raise ValueError(
                    f"{name}={values} is for convnextv2 and convnext: {self.name} has its own"
                )
            if min(values) < 1:
                raise ValueError(f"{name}={values} must be at least 1 in each of the four stages")

    def check(self) -> None:
        """Check the encoder, and that patches tile the images.

        Raises:
            ValueError: a value is out of range, or patches do not tile the images.
        """
        self.check_encoder()
        patch_grid(*self.sides, self.patch_size)
