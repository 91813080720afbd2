"""MAE: a ViT on visible patches is timm's ViT without the others, and its decoder a transformer."""

import math
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from fcmae import FCMAE, draw_visible
from fcmae.architecture import Architecture
from fcmae.decoders.transformer import TransformerDecoder
from fcmae.encoders.masked_vit import MaskedVit
from fcmae.encoders.transformer import positions
from fcmae.model_config import ModelConfig
from fcmae.run.learner import parameter_groups
from tests.support.generators import generator
from tests.support.models import plain_of
from tests.support.twins import randomise

NAME = "mae_vit_tiny"
GRID = (4, 3)
SIZE = (32, 24)


def encoder_of(in_chans: int = 3) -> MaskedVit:
    architecture = Architecture(name=NAME, in_chans=in_chans, image_size=SIZE, stem_stride=2)
    encoder = MaskedVit(architecture, generator(0))
    randomise(encoder)
    return encoder.double()


def images_and_visible(ratio: float, in_chans: int = 3) -> tuple[Tensor, Tensor]:
    images = torch.randn(2, in_chans, *SIZE, generator=generator(1)).double()
    return images, draw_visible(2, 12, ratio, generator=generator(2))


def position(row: int, column: int, dim: int) -> Tensor:
    """The position of one patch, out of the paper's own formula of one number after the other."""
    frequencies = [10000 ** (-i / (dim / 4)) for i in range(dim // 4)]
    return torch.tensor(
        [wave(at * f) for at in (column, row) for wave in (math.sin, math.cos) for f in frequencies]
    )


def timm_of(encoder: MaskedVit, in_chans: int) -> VisionTransformer:
    """timm's model of the same weights, with positions of its own reckoning."""
    theirs = timm.create_model(
        *("vit_tiny_patch16_224",), patch_size=8, img_size=SIZE, num_classes=0, in_chans=in_chans
    ).double()
    assert isinstance(theirs, VisionTransformer)
    at = [position(row, column, 192) for row in range(GRID[0]) for column in range(GRID[1])]
    embedded = torch.stack([torch.zeros(192), *at])[None]
    theirs.load_state_dict(encoder.state_dict() | {"pos_embed": embedded})
    return theirs


def test_positions_are_those_of_the_paper_in_any_rectangle() -> None:
    found = positions((3, 5), 16)
    for row in range(3):
        for column in range(5):
            expected = position(row, column, 16)
            torch.testing.assert_close(found[5 * row + column], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("ratio", "in_chans"), [(0.0, 3), (0.75, 3), (0.5, 1)])
def test_features_and_gradients_are_those_of_timm_on_the_visible_tokens(
    ratio: float, in_chans: int
) -> None:
    ours = encoder_of(in_chans=in_chans)
    theirs = timm_of(ours, in_chans)
    images, visible = images_and_visible(ratio, in_chans)
    found = ours(images, visible)
    if ratio == 0:
        expected = theirs.forward_features(images)[:, 1:]
    else:
        cls, tokens = theirs._pos_embed(theirs.patch_embed(images)).split([1, 12], dim=1)
        kept = torch.stack([row[seen] for row, seen in zip(tokens, visible, strict=True)])
        expected = theirs.norm(theirs.blocks(torch.cat([cls, kept], dim=1)))[:, 1:]
    # float32 of the positions is what they differ by
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(found.shape, generator=generator(3)).double()
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        mine, its = parameter.grad, gradients[name]
        assert mine is not None
        assert its is not None
        assert (mine - its).abs().max() <= 1e-5 * its.abs().max(), name


def test_hidden_pixels_reach_neither_features_nor_gradients() -> None:
    encoder = encoder_of()
    images, visible = images_and_visible(0.6)
    hidden = (~visible).view(2, 1, *GRID).repeat_interleave(8, 2).repeat_interleave(8, 3)
    found = []
    for batch in (images, images.masked_fill(hidden, torch.nan)):  # what poisons every sum
        batch.requires_grad_()
        features = encoder(batch, visible, 4)
        gradients = torch.autograd.grad(features.square().sum(), [batch, *encoder.parameters()])
        assert gradients[0].masked_select(hidden).eq(0).all()
        assert gradients[0].masked_select(~hidden).ne(0).any()
        found.append([features, *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_decoder_attends_over_all_patches_in_their_places() -> None:
    decoder = TransformerDecoder(dim_in=20, dim=64, depth=2, pixels=12, generator=generator(0))
    randomise(decoder)
    _, visible = images_and_visible(0.6)
    latent = torch.randn(2, 4, 20, generator=generator(4))
    found = decoder(latent, visible, GRID)
    for image, (seen, features) in enumerate(zip(visible, latent, strict=True)):
        left = iter(decoder.project(features))
        tokens = [next(left) if there else decoder.token for there in seen.tolist()]
        at = [position(i // GRID[1], i % GRID[1], 64) for i in range(12)]
        x = torch.stack([t + p for t, p in zip(tokens, at, strict=True)])[None]
        for block in decoder.blocks:
            assert isinstance(block, Block)
            attn: Any = block.attn
            mlp: Any = block.mlp
            assert attn.num_heads == 2
            q, k, v = attn.qkv(block.norm1(x)).view(12, 3, 2, 32).permute(1, 2, 0, 3)
            mixed = (q @ k.mT / 32**0.5).softmax(-1) @ v
            x = x + attn.proj(mixed.transpose(0, 1).reshape(1, 12, 64))
            x = x + mlp.fc2(nn.functional.gelu(mlp.fc1(block.norm2(x))))
        expected = decoder.predict(decoder.norm(x))[0, ~seen]
        torch.testing.assert_close(found[image], expected, rtol=1e-4, atol=1e-4)


def test_an_mae_has_the_sizes_of_its_paper_and_its_own_decoder() -> None:
    with torch.device("meta"):
        model = FCMAE(name="mae_vit_base", ratio=0.75)
    assert (model.patch_size, model.n, model.v, model.encoder.dim) == (16, 196, 49, 768)
    # ViT-B without its head and positions, as timm counts them
    parameters = sum(p.numel() for p in model.encoder.parameters())
    assert parameters == 85_798_656 - 197 * 768
    assert isinstance(model.decoder, TransformerDecoder)
    assert len(model.decoder.blocks) == 8
    first = model.decoder.blocks[0]
    assert isinstance(first, Block)
    assert first.attn.num_heads == 16
    assert len(plain_of(FCMAE(name="convnextv2_atto").decoder).blocks) == 1


def test_initial_weights_are_xavier_s_and_of_the_generator() -> None:
    options = {"name": NAME, "image_size": 32, "stem_stride": 2}
    options |= {"decoder_dim": 64, "decoder_depth": 1}
    model, again = (FCMAE(**options, generator=generator(5)) for _ in range(2))
    for (name, mine), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, other), name
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, MaskedVit)
    assert isinstance(decoder, TransformerDecoder)
    first = encoder.blocks[0]
    assert isinstance(first, Block)
    qkv = first.attn.get_submodule("qkv")
    assert isinstance(qkv, nn.Linear)
    assert float(qkv.weight.detach().abs().max()) == pytest.approx(
        (6 / (192 + 576)) ** 0.5, rel=1e-2
    )
    embed = encoder.patch_embed.proj
    assert float(embed.weight.detach().abs().max()) == pytest.approx(
        (6 / (192 + 192)) ** 0.5, rel=1e-2
    )
    assert float(encoder.cls_token.detach().std()) == pytest.approx(0.02, rel=0.2)
    assert float(decoder.token.detach().std()) == pytest.approx(0.02, rel=0.3)
    for layer in (qkv, embed):
        assert layer.bias is not None
        assert not layer.bias.any()
    decayed, others = parameter_groups(model.named_parameters(), 0.05)
    assert any(p is encoder.cls_token for p in others["params"])
    assert all(p.ndim > 1 for p in decayed["params"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mae_vit_giant"}, "model name='mae_vit_giant' is none of mae_vit_tiny, "),
        ({"stem_stride": 3}, r"stem_stride=3 must be 4, 2 or 1 \(patches of 16, 8, 4\)"),
        (
            {"sparse": "reference"},
            "sparse='reference' is for convnextv2 and convnext: mae_vit_tiny",
        ),
        (
            {"depths": (1, 1, 1, 1)},
            r"depths=\(1, 1, 1, 1\) is for convnextv2 and convnext: mae_vit_",
        ),
        ({"decoder_dim": 40}, "decoder_dim=40 must be a multiple of 32"),
        ({"image_size": 40}, "image_size=40 must be a multiple of patch_size=16; try 32 or 48"),
    ],
)
def test_what_no_mae_has_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        ModelConfig(**{"name": "mae_vit_tiny", **options}).check()


def test_visible_that_is_of_other_images_is_refused() -> None:
    images, visible = images_and_visible(0.6)
    with pytest.raises(ValueError, match=r"visible is \(2, 11\), but 2 images of 32x24 have 4x3"):
        encoder_of()(images, visible[:, 1:])
