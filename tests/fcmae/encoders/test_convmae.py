"""ConvMAE: masked convolutions in any layout are the paper's, and hidden pixels reach nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fcmae import FCMAE, draw_visible
from fcmae.architecture import Architecture
from fcmae.convmaes import SIZES, ConvMAESize
from fcmae.decoders.transformer import TransformerDecoder
from fcmae.encoders.convmae import ConvMAE
from fcmae.encoders.transformer import positions
from fcmae.model_config import ModelConfig
from tests.support.generators import generator
from tests.support.twins import randomise

NAME = "convmae_small"
GRID = (3, 2)
FEW = ConvMAESize(widths=(8, 12, 24), depths=(1, 2, 2), heads=2, expansion=3)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer and smaller layers of the same kinds."""
    monkeypatch.setitem(SIZES, "small", FEW)


def architecture_of(stem_stride: int = 1, in_chans: int = 3) -> Architecture:
    patch = 4 * stem_stride
    return Architecture(
        name=NAME, image_size=(GRID[0] * patch, GRID[1] * patch), stem_stride=stem_stride,
        in_chans=in_chans,
    )  # fmt: skip


def encoder_of(sparse: str = "gathered", stem_stride: int = 1, in_chans: int = 3) -> ConvMAE:
    encoder = ConvMAE(architecture_of(stem_stride, in_chans), sparse, generator(0))
    randomise(encoder)
    return encoder.double()


def batch_of(encoder: ConvMAE, ratio: float) -> tuple[Tensor, Tensor]:
    sides = [encoder.patch_size * side for side in GRID]
    channels = encoder.patch_embed1.proj.in_channels
    images = torch.randn(2, channels, *sides, generator=generator(1)).double()
    return images, draw_visible(2, 6, ratio, generator=generator(2))


def plain(state: dict[str, Tensor], images: Tensor, visible: Tensor, heads: int) -> Tensor:
    """The paper's equations on whole maps: masks multiply what depthwise convolutions read."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x: Tensor, name: str, eps: float) -> Tensor:
        """Over the last dimension, the channels."""
        centred = x - x.mean(-1, keepdim=True)
        x = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def strided(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.weight"]
        x = F.conv2d(x.permute(0, 3, 1, 2), weight, state[f"{name}.bias"], weight.shape[2])
        return x.permute(0, 2, 3, 1)

    def embedded(x: Tensor, name: str) -> Tensor:
        return F.gelu(norm(strided(x, f"{name}.proj"), f"{name}.norm", 1e-5))

    def block(x: Tensor, name: str) -> Tensor:
        side = x.shape[1] // GRID[0]
        mask = visible.reshape(-1, *GRID, 1).repeat_interleave(side, 1).repeat_interleave(side, 2)
        y = mask * linear(norm(x, f"{name}.norm1", 1e-5), f"{name}.conv1")
        weight = state[f"{name}.attn.weight"]
        y = F.conv2d(
            y.permute(0, 3, 1, 2), weight, state[f"{name}.attn.bias"], padding=2, groups=len(weight)
        )
        x = x + linear(y.permute(0, 2, 3, 1), f"{name}.conv2")
        y = linear(norm(x, f"{name}.norm2", 1e-5), f"{name}.mlp.fc1")
        return x + linear(F.gelu(y), f"{name}.mlp.fc2")

    def attention(x: Tensor, name: str) -> Tensor:
        b, n, d = x.shape
        y = linear(norm(x, f"{name}.norm1", 1e-6), f"{name}.attn.qkv")
        q, k, v = y.view(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        y = (q @ k.mT / (d // heads) ** 0.5).softmax(-1) @ v
        x = x + linear(y.transpose(1, 2).reshape(b, n, d), f"{name}.attn.proj")
        y = linear(norm(x, f"{name}.norm2", 1e-6), f"{name}.mlp.fc1")
        return x + linear(F.gelu(y), f"{name}.mlp.fc2")

    def kept(x: Tensor) -> Tensor:
        """The tokens of visible patches."""
        rows = x.flatten(1, -2)
        return torch.stack([row[seen] for row, seen in zip(rows, visible, strict=True)])

    def blocks(stage: int) -> list[str]:
        last = 1 + max(int(k.split(".")[1]) for k in state if k.startswith(f"blocks{stage}."))
        return [f"blocks{stage}.{i}" for i in range(last)]

    x = images.permute(0, 2, 3, 1)
    fused = 0
    for stage in (1, 2):
        x = embedded(x, f"patch_embed{stage}")
        for name in blocks(stage):
            x = block(x, name)
        fused = fused + kept(strided(x, f"stage{stage}_output_decode"))
    tokens = linear(embedded(x, "patch_embed3"), "patch_embed4").flatten(1, 2)
    tokens = kept(tokens + positions(GRID, tokens.shape[2]))
    for name in blocks(3):
        tokens = attention(tokens, name)
    return norm(tokens + fused, "norm", 1e-6)


@pytest.mark.parametrize("sparse", ["gathered", "reference"])
@pytest.mark.parametrize(
    ("ratio", "stem_stride", "in_chans"), [(0.0, 1, 3), (0.5, 1, 1), (0.75, 2, 3)]
)
def test_features_and_gradients_are_those_of_masked_dense_maps(
    few: None, sparse: str, ratio: float, stem_stride: int, in_chans: int
) -> None:
    encoder = encoder_of(sparse, stem_stride, in_chans)
    images, visible = batch_of(encoder, ratio)
    found = encoder(images, visible)
    state = {k: v.detach().clone().requires_grad_() for k, v in encoder.state_dict().items()}
    expected = plain(state, images, visible, heads=2)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weights = torch.randn(found.shape, generator=generator(3)).double()
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for name, parameter in encoder.named_parameters():
        scale = state[name].grad.abs().max()
        assert (parameter.grad - state[name].grad).abs().max() <= 1e-9 * scale, name


@pytest.mark.parametrize("sparse", ["gathered", "reference"])
def test_hidden_pixels_reach_neither_features_nor_gradients(few: None, sparse: str) -> None:
    encoder = encoder_of(sparse)
    images, visible = batch_of(encoder, 0.5)
    hidden = (~visible).view(2, 1, *GRID).repeat_interleave(4, 2).repeat_interleave(4, 3)
    found = []
    for batch in (images, images.masked_fill(hidden, 1e3)):
        batch.requires_grad_()
        features = encoder(batch, visible, 3)
        gradients = torch.autograd.grad(features.square().sum(), [batch, *encoder.parameters()])
        assert gradients[0].masked_select(hidden).eq(0).all()
        assert gradients[0].masked_select(~hidden).ne(0).any()
        found.append([features, *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_whole_images_are_sparse_ones_with_everything_visible(few: None) -> None:
    encoder = encoder_of()
    images, visible = batch_of(encoder, 0.0)
    fine, middle, tokens, last = encoder.maps(images)
    assert (fine.shape[1:], middle.shape[1:]) == ((8, 12, 8), (12, 6, 4))
    assert tokens.shape == last.shape == (2, 24, *GRID)
    found = encoder(images, visible).mT.unflatten(2, GRID)
    torch.testing.assert_close(last, found, rtol=1e-9, atol=1e-9)


def test_a_unet_takes_the_scales_of_the_three_stages(few: None) -> None:
    architecture = architecture_of()
    encoder = encoder_of("reference")
    scales = encoder.scales(*batch_of(encoder, 0.5))
    assert [x.shape[1:] for x in scales] == [
        (3, scale.side, scale.side, scale.width) for scale in architecture.scales
    ]
    model = FCMAE(
        name=NAME, image_size=8, stem_stride=1, decoder="unet", decoder_dim=16, sparse="reference"
    )
    loss, _ = model(torch.randn(2, 3, 8, 8), draw_visible(2, 4, 0.6, generator=generator(2)))
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "millions"), [("convmae_small", 22), ("convmae_base", 84), ("convmae_large", 322)]
)
def test_sizes_are_those_of_the_paper(name: str, millions: int) -> None:
    with torch.device("meta"):
        model = FCMAE(name=name, ratio=0.75)
    assert (model.patch_size, model.n, model.v) == (16, 196, 49)
    # the paper counts what is fine-tuned, which has no fusion
    counted = [p for k, p in model.encoder.named_parameters() if "output_decode" not in k]
    assert round(sum(p.numel() for p in counted) / 1e6) == millions
    assert isinstance(model.decoder, TransformerDecoder)
    assert len(model.decoder.blocks) == 8


def test_initial_weights_are_those_of_the_generator() -> None:
    options = {"name": NAME, "image_size": 32, "stem_stride": 2, "decoder_depth": 1}
    model, again = (FCMAE(**options, generator=generator(5)) for _ in range(2))
    for (name, mine), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, other), name
    largest = {
        "patch_embed1.proj.weight": (3 * 4) ** -0.5,
        "blocks1.0.conv1.weight": 128**-0.5,
        "blocks1.0.attn.bias": 25**-0.5,
        "stage1_output_decode.weight": (16 * 128) ** -0.5,
        "patch_embed3.proj.weight": (6 / (4 * 256 + 384)) ** 0.5,
        "patch_embed4.weight": (6 / (2 * 384)) ** 0.5,
        "blocks3.0.attn.qkv.weight": (6 / (384 + 3 * 384)) ** 0.5,
    }
    state = model.encoder.state_dict()
    for name, bound in largest.items():
        assert float(state[name].abs().max()) == pytest.approx(bound, rel=0.1), name
    assert not state["patch_embed4.bias"].any()
    assert not state["blocks3.0.attn.qkv.bias"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "convmae_huge"}, "model name='convmae_huge' is none of convmae_small, "),
        ({"stem_stride": 3}, r"stem_stride=3 must be 4, 2 or 1 \(patches of 16, 8, 4\)"),
        (
            {"depths": (1, 1, 1, 1)},
            r"depths=\(1, 1, 1, 1\) is for convnextv2 and convnext: convmae",
        ),
        ({"decoder_dim": 40}, "decoder_dim=40 must be a multiple of 32"),
        ({"image_size": 40}, "image_size=40 must be a multiple of patch_size=16; try 32 or 48"),
    ],
)
def test_what_no_convmae_has_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        ModelConfig(**{"name": NAME, **options}).check()
