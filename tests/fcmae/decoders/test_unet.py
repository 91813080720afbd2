"""SparK's UNet equals its equations, and features of each scale are of visible pixels alone."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fcmae import FCMAE, draw_visible
from fcmae.architecture import Architecture, Scale
from fcmae.decoders.unet import UNet
from fcmae.encoders.masked_convnet import MaskedConvNet
from fcmae.masking import on_grid, sites_of
from fcmae.model_config import ModelConfig
from tests.support.generators import generator
from tests.support.twins import randomise

NAMES = ("convnextv2_atto", "convnext_atto", "timm:resnet18", "mae_vit_tiny")
SIDES = {"mae_vit_tiny": [1]}


def model_of(name: str = "convnextv2_atto", **options: object) -> FCMAE:
    """A small model, none of whose parameters is at its initial value."""
    small = {"image_size": (96, 64), "decoder": "unet", "decoder_dim": 32}
    model = FCMAE(name=name, generator=generator(0), **(small | options))  # type: ignore[arg-type]
    randomise(model)
    return model


def batch_of(model: FCMAE, b: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Images, visible patches, and which pixels are hidden."""
    images = torch.randn(b, 3, *model.image_size, generator=generator(1))
    visible = draw_visible(b, model.n, model.ratio, generator=generator(2))
    patches = (~visible).view(b, 1, *model.grid)
    p = model.patch_size
    return images, visible, patches.repeat_interleave(p, 2).repeat_interleave(p, 3)


def densified(part: Any, x: Tensor, visible: Tensor, grid: tuple[int, int]) -> Tensor:
    """Equation 4 of SparK, one image, patch and site at a time."""
    b, _, s, _, d = x.shape
    dense = torch.empty(b, d, grid[0] * s, grid[1] * s, dtype=x.dtype)
    for i in range(b):
        seen = iter(x[i])
        for j in range(visible.shape[1]):
            top, left = j // grid[1] * s, j % grid[1] * s
            patch = part.token.expand(s, s, d)
            if visible[i, j]:
                patch = next(seen)
                mean = patch.mean(-1, keepdim=True)
                var = (patch - mean).square().mean(-1, keepdim=True)
                patch = (patch - mean) / (var + 1e-6).sqrt() * part.norm.weight + part.norm.bias
            dense[i, :, top : top + s, left : left + s] = patch.permute(2, 0, 1)
    weight = part.project.weight
    return F.conv2d(dense, weight, part.project.bias, padding=weight.shape[-1] // 2)


def normalised(norm: nn.GroupNorm, x: Tensor, groups: int) -> Tensor:
    """Group norm, written out."""
    y = x.reshape(len(x), groups, -1)
    y = y - y.mean(2, keepdim=True)
    y = (y / (y.square().mean(2, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)
    return y * norm.weight[:, None, None] + norm.bias[:, None, None]


def doubled(block: Any, x: Tensor) -> Tensor:
    """A block of SparK's decoder; its transposed convolution is one between rows of zeros."""
    b, d, h, w = x.shape
    apart = x.new_zeros(b, d, 2 * h - 1, 2 * w - 1)
    apart[..., ::2, ::2] = x
    flipped = block.up.weight.flip(2, 3).transpose(0, 1)
    x = F.conv2d(F.pad(apart, (2, 2, 2, 2)), flipped, block.up.bias)
    first, norm, _, second, last = block.convolve
    x = normalised(norm, F.conv2d(x, first.weight, padding=1), max(1, d // 16))
    x = F.conv2d(x.clamp(0, 6), second.weight, padding=1)
    return normalised(last, x, max(1, d // 32))


def predicted(
    decoder: Any, scales: list[Tensor], visible: Tensor, grid: tuple[int, int]
) -> Float[Tensor, "b k ppc"]:
    """SparK's decoder from its equations: a map is added where a patch has as many sites."""
    skips = {
        x.shape[2]: densified(part, x, visible, grid)
        for part, x in zip(decoder.densify, scales, strict=True)
    }
    x = skips[1]
    p = decoder.patch_size
    for block, side in zip(decoder.blocks, (2**i for i in range(1, 9)), strict=False):
        x = doubled(block, x)
        if side in skips:
            x = x + skips[side]
    pixels = torch.einsum("bdhw, cd -> bhwc", x, decoder.predict.weight[:, :, 0, 0])
    pixels = pixels + decoder.predict.bias
    rows = []
    for i in range(len(visible)):
        hidden = [j for j in range(visible.shape[1]) if not visible[i, j]]
        corners = [(j // grid[1] * p, j % grid[1] * p) for j in hidden]
        rows.append(torch.stack([pixels[i, t : t + p, c : c + p].flatten() for t, c in corners]))
    return torch.stack(rows)


@pytest.mark.parametrize("stem_stride", [4, 2, 1])
def test_predictions_and_gradients_are_those_of_the_equations(stem_stride: int) -> None:
    p = 8 * stem_stride
    dim = 4 * p  # several groups where blocks are wide, one in the last
    scales = tuple(map(Scale, (8, 4, 2, 1), (5, 6, 7, 9)))
    decoder = UNet(scales=scales, dim=dim, patch_size=p, in_chans=2).double()
    randomise(decoder)
    visible = torch.tensor([[True, False, False, True, False, False], [False] * 4 + [True] * 2])
    draws = generator(3)
    features = [
        torch.randn(2, 2, s.side, s.side, s.width, generator=draws).double() for s in scales
    ]
    found = []
    for function in (decoder, partial(predicted, decoder)):
        inputs = [x.clone().requires_grad_() for x in features]
        decoder.zero_grad()
        prediction = function(inputs, visible, (3, 2))
        weights = torch.randn(prediction.shape, generator=generator(4)).double()
        (prediction * weights).sum().backward()
        grads = [x.grad for x in (*inputs, *decoder.parameters())]
        found.append([prediction.detach(), *(grad.clone() for grad in grads if grad is not None)])
    ours, theirs = found
    assert len(ours) == 1 + 4 + len(list(decoder.parameters()))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))


@pytest.mark.parametrize(
    ("name", "sparse"), [*((name, "gathered") for name in NAMES), ("convnextv2_atto", "reference")]
)
def test_a_hidden_pixel_changes_no_prediction_and_no_gradient(name: str, sparse: str) -> None:
    model = model_of(name, sparse=sparse)
    images, visible, hidden = batch_of(model)
    found = []
    for batch in (images, images.masked_fill(hidden, 1e3)):
        twin = copy.deepcopy(model)
        batch = batch.clone().requires_grad_()
        _, prediction = twin(batch, visible)
        prediction.square().sum().backward()
        assert batch.grad is not None
        assert not batch.grad.masked_select(hidden).any()
        assert batch.grad.masked_select(~hidden).any()
        grads = [p.grad for p in twin.parameters() if p.requires_grad]
        found.append([prediction, *grads, *twin.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name: str) -> None:
    model = model_of(name)
    images, visible, _ = batch_of(model)
    model(images, visible)[0].backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.any() for p in trained.values())
    tokens = [name for name in trained if "decoder.densify" in name and "token" in name]
    assert len(tokens) == len(SIDES.get(name, range(4)))


@pytest.mark.parametrize("name", NAMES)
def test_scales_are_as_the_architecture_tells_and_end_in_the_features(name: str) -> None:
    model = model_of(name)
    images, visible, _ = batch_of(model)
    encoder = model.encoder.eval()
    scales = encoder.scales(images, visible, model.v)
    told = Architecture(name=name).scales
    assert [x.shape[1:] for x in scales] == [(model.v, s.side, s.side, s.width) for s in told]
    assert [s.side for s in told] == SIDES.get(name, [8, 4, 2, 1])
    assert torch.equal(scales[-1][:, :, 0, 0], encoder(images, visible, model.v))


@pytest.mark.parametrize(
    ("name", "stem_stride"),
    [("timm:resnet18", 1), ("timm:mobilenetv3_small_050", 4)],
)
def test_with_everything_visible_scales_are_the_maps_of_timm(name: str, stem_stride: int) -> None:
    architecture = Architecture(name=name, stem_stride=stem_stride)
    encoder = MaskedConvNet(architecture, generator(0)).eval()
    images = torch.randn(1, 3, 16 * stem_stride, 24 * stem_stride, generator=generator(1))
    visible = torch.ones(1, 6, dtype=torch.bool)
    with torch.no_grad():
        scales = encoder.scales(images, visible)
        maps = {tuple(x.shape[1:]): x for x in encoder.maps(images)}
    assert len(scales) == 4
    for x in scales:
        dense = on_grid(torch.zeros(x.shape[-1]), x, visible, (2, 3))
        expected = maps[tuple(dense.shape[1:])]
        torch.testing.assert_close(dense, expected, rtol=1e-4, atol=1e-4 * float(expected.max()))


def test_every_implementation_of_convnext_has_the_same_scales() -> None:
    one, other = model_of(), model_of(sparse="reference")
    images, visible, _ = batch_of(one)
    scales = (model.encoder.scales(images, visible, model.v) for model in (one, other))
    for mine, its in zip(*scales, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-4)


def test_sites_are_put_on_the_grid_where_they_were_taken() -> None:
    dense = torch.randn(2, 3, 4, 6, generator=generator(0))
    visible = draw_visible(2, 6, 0.5, generator=generator(1))
    taken = sites_of(dense, visible, 3, 2)
    back = on_grid(torch.tensor([7.0, 8.0, 9.0]), taken, visible, (2, 3))
    seen = visible.view(2, 1, 2, 3).repeat_interleave(2, 2).repeat_interleave(2, 3)
    elsewhere = torch.tensor([7.0, 8.0, 9.0])[:, None, None]
    assert torch.equal(back, torch.where(seen, dense, elsewhere))


@pytest.mark.slow
def test_the_step_of_a_batch_is_that_of_its_parts() -> None:
    model = model_of().double()
    images, visible, _ = batch_of(model, b=4)
    images = images.double()
    loss, whole = model(images, visible)
    loss.backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    for part in (slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4)):
        loss, prediction = model(images[part], visible[part])
        torch.testing.assert_close(prediction, whole[part], rtol=1e-9, atol=1e-9)
        (loss / 4).backward()
    for p, mine in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, mine, rtol=1e-6, atol=1e-9)


def test_initial_weights_are_those_of_all_other_parts() -> None:
    decoder = FCMAE(decoder="unet", image_size=64, generator=generator(0)).decoder
    for name, p in decoder.named_parameters():
        if p.ndim > 1 or name.endswith("token"):
            # a quarter for tokens of 40 channels
            assert p.std().item() == pytest.approx(0.02, rel=0.25), name
        else:
            assert p.eq(1.0 if "norm.weight" in name or p.any() else 0.0).all(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"decoder": "unet", "decoder_dim": 100},
            "decoder_dim=100 must be a multiple of patch_size=32 .*; try 128",
        ),
        ({"decoder": "unet", "decoder_depth": 2}, "decoder_depth=2 is for decoder='plain'"),
    ],
)
def test_options_that_make_no_unet_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options).check()  # type: ignore[arg-type]


def test_another_name_is_no_decoder() -> None:
    config = ModelConfig()
    object.__setattr__(config, "decoder", "u-net")  # types are not checked outside of tests
    with pytest.raises(ValueError, match="decoder='u-net' is none of plain, unet"):
        config.check()


def test_plain_is_the_default_and_as_it_was() -> None:
    model = FCMAE(image_size=64, decoder_dim=16, generator=generator(0))
    names = [name for name, _ in model.decoder.named_parameters()]
    assert names[:3] == ["token", "project.weight", "project.bias"]
    assert not any("densify" in name for name in names)
