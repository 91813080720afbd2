"""Rivals of the encoder: masked dense convolution, MAE with a ViT, bare matrix products.

Each is written to be fast, so that the comparison is fair.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fcmae import FCMAE
from fcmae.architecture import Architecture
from fcmae.decoders.plain import Decoder
from fcmae.encoder import Encoder
from fcmae.sparse import Sparse, implementation
from fcmae.sparse.reference import Reference


class MaskedDense(Reference):
    """Masked dense convolution without avoidable work, as SparK does it.

    Unlike the reference it masks only what a convolution or a norm is about to mix, by a product
    that keeps NaN of hidden pixels, and it is channels last throughout.
    """

    def __init__(
        self, visible: Bool[Tensor, "b n"], grid: tuple[int, int], count: int | None = None
    ) -> None:
        super().__init__(visible, grid, count)
        self.ones: dict[int, Tensor] = {}

    def ones_at_visible(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b h w 1"]:
        """Return 1 at visible sites of the grid of x, and 0 elsewhere."""
        rows = x.shape[1]
        if rows not in self.ones:
            self.ones[rows] = self.visible_sites(x).to(x.dtype)
        return self.ones[rows].to(x.dtype)

    def stem(self, images: Float[Tensor, "b c h w"], conv: nn.Conv2d) -> Float[Tensor, "b _ _ d"]:
        return rearrange(conv(images), "b d h w -> b h w d")  # hidden sites: masked where mixed

    def downsample(self, x: Float[Tensor, "b h w c"], conv: nn.Conv2d) -> Float[Tensor, "b _ _ d"]:
        return rearrange(conv(rearrange(x, "b h w c -> b c h w")), "b d h w -> b h w d")

    def depthwise(self, x: Float[Tensor, "b h w d"], conv: nn.Conv2d) -> Float[Tensor, "b h w d"]:
        return self.downsample(x * self.ones_at_visible(x), conv)

    def spatial_norm(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b 1 1 d"]:
        ones = rearrange(self.ones_at_visible(x), "b h w 1 -> b 1 (h w)")
        energy = torch.bmm(ones, rearrange(x.square(), "b h w d -> b (h w) d"))
        return energy[:, None].sqrt()


def minkowski_modules() -> Callable[..., Sparse]:
    """Make operations of MinkowskiEngine with its own depthwise module, slower than ours.

    Raises:
        ValueError: MinkowskiEngine cannot be imported.
    """
    implementation("minkowski")
    from fcmae.sparse.minkowski import ME, Minkowski

    class MinkowskiModules(Minkowski):
        def depthwise(
            self, x: Float[Tensor, "b v s s d"], conv: nn.Conv2d
        ) -> Float[Tensor, "b v s s d"]:
            d = x.shape[-1]
            module = ME.MinkowskiChannelwiseConvolution(
                d, kernel_size=conv.kernel_size[0], dimension=2
            )
            del module.kernel  # our parameters instead, in its layout
            module.kernel = rearrange(conv.weight, "d 1 i j -> (i j) d")
            sites = ME.SparseTensor(
                x.reshape(-1, d),
                coordinate_map_key=self.key(x.shape[2]),
                coordinate_manager=self.manager,
            )
            assert conv.bias is not None
            return (module(sites).F + conv.bias).view(x.shape)

    return MinkowskiModules


def mae_of(image_size: int = 224) -> FCMAE:
    """Make MAE with a ViT-S/16 on a quarter of the patches and a decoder of 8 blocks of 512.

    Source: He et al. 2022, section 3 and appendix A.1; ViT-S of Touvron et al. 2021.
    """
    generator = torch.Generator().manual_seed(0)
    return FCMAE(name="mae_vit_small", image_size=image_size, ratio=0.75, generator=generator)


def products(name: str, model: FCMAE, b: int) -> Iterator[tuple[int, int, int]]:
    """Iterate over (rows, inputs, outputs) of all matrix products of a forward pass on b images."""
    architecture = Architecture(name=name)
    widths = architecture.size.widths
    hidden = model.n - model.v
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, Encoder)
    assert isinstance(decoder, Decoder)
    stem = encoder.stem[0]
    assert isinstance(stem, nn.Conv2d)
    side = 8
    yield b * model.v * side**2, stem.weight[0].numel(), widths[0]
    for stage, (depth, width) in enumerate(zip(architecture.size.depths, widths, strict=True)):
        rows = b * model.v * side**2
        if stage:
            yield rows, 4 * widths[stage - 1], width
        for _ in range(depth):
            yield rows, width, 4 * width
            yield rows, 4 * width, width
        side //= 2
    for layer, rows in ((decoder.project, b * model.v), (decoder.predict, b * hidden)):
        yield rows, layer.in_features, layer.out_features
    for _ in decoder.blocks:
        width = decoder.project.out_features
        yield b * model.n, width, 4 * width
        yield b * model.n, 4 * width, width


class Products:
    """The matrix products of a training step alone: the outputs and both gradients of each.

    Args:
        name: of the encoder.
        model: of that name.
        b: number of images.
        dtype: of all factors.
        device: of all factors.
    """

    def __init__(
        self,
        name: str,
        model: FCMAE,
        b: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        self.shapes = list(products(name, model, b))
        draw = partial(torch.randn, dtype=dtype, device=device)
        self.x = {(r, k): draw(r, k) for r, k, _ in self.shapes}
        self.y = {(r, n): draw(r, n) for r, _, n in self.shapes}
        self.w = {(n, k): draw(n, k) for _, k, n in self.shapes}

    def __call__(self) -> None:
        for layer, (r, k, n) in enumerate(self.shapes):
            x = self.x[r, k]
            y = self.y[r, n]
            w = self.w[n, k]
            torch.mm(x, w.T, out=y)
            torch.mm(y.T, x)
            if layer:  # nothing needs the gradient of the images
                torch.mm(y, w, out=x)
