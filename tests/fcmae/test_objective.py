"""Masking, decoder, loss, initialisation: the equations of the method."""

import math
import re

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fcmae import FCMAE, draw_visible
from fcmae.decoders.plain import Decoder
from fcmae.layers import GrnMlp
from fcmae.loss import reconstruction_loss
from fcmae.masking import draw_visible_of, patchify, place, splitmix64, take, unpatchify
from fcmae.patches import visible_count
from fcmae.reconstruction import reconstruct
from fcmae.sparse import implementation
from tests.support.generators import generator
from tests.support.twins import randomise


def small(**kwargs: object) -> FCMAE:
    options = {"image_size": 32, "stem_stride": 1, "decoder_dim": 32, "generator": generator(0)}
    return FCMAE(**(options | kwargs))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("n", "ratio", "v"), [(49, 0.6, 19), (16, 0.6, 6), (9, 0.0, 9), (4, 0.75, 1)]
)
def test_visible_count_rounds_as_the_official_code(n: int, ratio: float, v: int) -> None:
    assert visible_count(n, ratio) == v
    assert draw_visible(5, n, ratio).sum(1).tolist() == [v] * 5


def test_every_patch_is_visible_equally_often() -> None:
    share = draw_visible(20_000, 16, 0.75, generator=generator(0)).float().mean(0)
    # a share of 1/4 has standard deviation sqrt(3/16/20000) = 0.003
    assert (share - 0.25).abs().max() < 0.015
    counter = torch.arange(20_000)
    share = draw_visible_of(0, torch.zeros_like(counter), counter, 16, 0.75).float().mean(0)
    assert (share - 0.25).abs().max() < 0.015


def test_splitmix64_gives_the_published_sequence() -> None:
    # The reference generator's first outputs for seed 0 (Vigna's splitmix64.c); ours counts from 0
    # by whole increments, so output i of seed 0 is the finaliser of i + 1 increments.
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    found = splitmix64(torch.arange(3)).tolist()
    assert [value % 2**64 for value in found] == expected


def test_a_samples_mask_depends_on_seed_epoch_and_sample_only() -> None:
    epoch, sample = torch.tensor([0, 0, 1, 1]), torch.tensor([3, 4, 3, 4])
    together = draw_visible_of(7, epoch, sample, 49, 0.6)
    for i in range(4):
        alone = draw_visible_of(7, epoch[i : i + 1], sample[i : i + 1], 49, 0.6)
        assert torch.equal(alone[0], together[i])
    assert len({tuple(row) for row in together.tolist()}) == 4
    assert not torch.equal(together, draw_visible_of(8, epoch, sample, 49, 0.6))


def test_seed_and_epoch_are_not_interchangeable_in_a_mask() -> None:
    sample = torch.arange(50)
    first = draw_visible_of(1, torch.zeros_like(sample), sample, 49, 0.6)
    second = draw_visible_of(0, torch.ones_like(sample), sample, 49, 0.6)
    assert not (first == second).all(dim=1).any()


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        (1.0, r"ratio=1.0 must lie in \[0, 1\)"),
        (-0.1, r"ratio=-0.1 must lie in \[0, 1\)"),
        (0.9, "ratio=0.9 leaves none of 4 patches visible; lower it to at most 0.749"),
    ],
)
def test_bad_ratios_are_named(ratio: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_visible(1, 4, ratio)


@pytest.mark.parametrize("n", [1, 3, 4, 10, 49, 196])
def test_the_ratio_that_the_message_suggests_works(n: int) -> None:
    with pytest.raises(ValueError, match="leaves none") as error:
        visible_count(n, 0.9999)
    (most,) = re.findall(r"at most (\d\.\d+)", str(error.value))
    assert visible_count(n, float(most)) >= 1


def test_unpatchify_inverts_patchify_in_raster_order() -> None:
    images = torch.randn(2, 3, 8, 12, generator=generator(0))
    patches = patchify(images, 4)
    assert torch.equal(patches[0, 4], images[0, :, 4:8, 4:8].permute(1, 2, 0))
    assert torch.equal(unpatchify(patches, (2, 3)), images)


def test_take_and_place_are_adjoint_and_go_by_raster_order() -> None:
    chosen = draw_visible(2, 6, 0.5, generator=generator(0))
    x, rows = torch.randn(2, 6, 3).double(), torch.randn(2, 3, 3).double()
    assert torch.equal(take(x, chosen, 3), x[chosen].view(2, 3, 3))
    assert torch.equal(take(place(rows, chosen), chosen, 3), rows)
    assert not place(rows, chosen)[~chosen].any()
    inputs = (x.requires_grad_(), rows.requires_grad_())
    assert gradcheck(lambda a, b: (take(a, chosen, 3), place(b, chosen)), inputs)


@pytest.mark.parametrize("sparse", ["gathered", "reference"])
def test_grn_matches_its_equation_on_visible_sites(sparse: str) -> None:
    visible = torch.tensor([[True, False, True, True]])
    x = torch.randn(1, 3, 2, 2, 8, generator=generator(0)).double()  # v, s, s, d
    mlp = GrnMlp(8).double()
    for i, parameter in enumerate(mlp.parameters()):
        torch.nn.init.normal_(parameter, generator=generator(i))
    a = torch.nn.functional.gelu(mlp.fc1(x))
    norm = (a**2).sum((1, 2, 3)).sqrt()[0]  # eq. 1: over the visible sites of the image
    response = norm / (norm.mean() + 1e-6)  # eq. 2
    expected = mlp.fc2(mlp.grn.weight * (a * response) + mlp.grn.bias + a)  # eq. 3
    if sparse == "reference":  # the same sites on the grid, what is hidden set to something large
        dense = torch.full((1, 4, 2, 2, 8), 1e3).double()
        dense[:, visible[0]] = x
        grid = dense.view(1, 2, 2, 2, 2, 8).transpose(2, 3).reshape(1, 4, 4, 8)
        out = mlp(grid, implementation(sparse)(visible, (2, 2), 3))
        out = out.view(1, 2, 2, 2, 2, 8).transpose(2, 3).reshape(1, 4, 2, 2, 8)[:, visible[0]]
    else:
        out = mlp(x, implementation(sparse)(visible, (2, 2), 3))
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def explicit_loss(prediction: Tensor, images: Tensor, visible: Tensor, p: int) -> float:
    """The definition, one patch at a time."""
    terms = []
    columns = images.shape[3] // p
    for b in range(len(images)):
        hidden = [j for j in range(visible.shape[1]) if not visible[b, j]]
        for k, j in enumerate(hidden):
            top, left = j // columns * p, j % columns * p
            patch = images[b, :, top : top + p, left : left + p].permute(1, 2, 0).flatten()
            target = (patch - patch.mean()) / math.sqrt(patch.var().item() + 1e-6)
            terms.append((prediction[b, k] - target).square().mean().item())
    return sum(terms) / len(terms)


def test_loss_is_mean_squared_error_of_normalised_hidden_patches() -> None:
    images = torch.randn(2, 3, 16, 24, generator=generator(0)).double()
    visible = draw_visible(2, 6, 0.5, generator=generator(1))
    prediction = torch.randn(2, 3, 192, generator=generator(2)).double()
    loss = reconstruction_loss(prediction, images, visible, 8)
    assert loss.item() == pytest.approx(explicit_loss(prediction, images, visible, 8), rel=1e-12)


def test_loss_of_a_flat_patch_is_finite() -> None:
    images, visible = torch.ones(1, 3, 16, 16), torch.tensor([[True, True, False, False]])
    assert reconstruction_loss(torch.zeros(1, 2, 192), images, visible, 8).item() == 0


def test_hidden_pixels_never_reach_the_decoders_prediction() -> None:
    model = small(image_size=(32, 24)).double()
    images = torch.randn(2, 3, 32, 24, generator=generator(1)).double()
    visible = draw_visible(2, 12, 0.6, generator=generator(2))
    hidden = (~visible).view(2, 1, 4, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
    _, prediction = model(images, visible)
    changed = images.masked_fill(hidden, 5.0)
    loss_changed, unchanged = model(changed, visible)
    assert torch.equal(prediction, unchanged)
    # they are what is to be predicted
    expected = explicit_loss(unchanged, changed, visible, 8)
    assert loss_changed.item() == pytest.approx(expected, rel=1e-12)


def test_loss_ignores_what_visible_patches_hold() -> None:
    images = torch.randn(1, 3, 32, 32, generator=generator(1))
    visible = draw_visible(1, 16, 0.6, generator=generator(2))
    seen = visible.view(1, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    prediction = torch.randn(1, 10, 192, generator=generator(3))
    before = reconstruction_loss(prediction, images, visible, 8)
    assert before == reconstruction_loss(prediction, images.masked_fill(seen, 9.0), visible, 8)


@pytest.mark.parametrize("seen", [(0, 1), (0, 3)])
def test_decoder_sees_features_at_their_places_and_the_token_elsewhere(
    seen: tuple[int, int],
) -> None:
    decoder = Decoder(dim_in=8, dim=16, depth=1, pixels=12).double()
    randomise(decoder)
    latent = torch.randn(1, 2, 8, generator=generator(0)).double()
    visible = torch.zeros(1, 4, dtype=torch.bool)
    visible[0, list(seen)] = True
    sites = decoder.token.repeat(4, 1)
    sites[list(seen)] = decoder.project(latent[0])
    everywhere = implementation("reference")(torch.ones(1, 4, dtype=torch.bool), (2, 2), 4)
    grid = decoder.blocks[0](sites.view(1, 2, 2, 16), everywhere)
    expected = decoder.predict(grid.view(1, 4, 16)[:, ~visible[0]])
    torch.testing.assert_close(decoder(latent, visible, (2, 2)), expected, rtol=1e-12, atol=1e-12)


def test_initialisation_is_truncated_normal_once() -> None:
    model = small(name="convnextv2_pico", decoder_dim=512)
    for name, p in model.named_parameters():
        if p.ndim > 1 or name == "decoder.token":
            assert p.std().item() == pytest.approx(0.02, rel=0.15), name
        else:
            expected = (
                1.0
                if "norm.weight" in name or name.endswith((".0.weight", "stem.1.weight"))
                else 0.0
            )
            assert p.eq(expected).all(), name
    assert all(
        torch.equal(a, b) for a, b in zip(small().parameters(), small().parameters(), strict=True)
    )


def test_pasted_view_is_the_original_when_the_prediction_is_the_target() -> None:
    images = torch.randn(2, 3, 16, 16, generator=generator(0)).double()
    visible = draw_visible(2, 4, 0.5, generator=generator(1))
    hidden = torch.stack([patchify(images, 8)[b, ~visible[b]].flatten(1) for b in range(2)])
    target = (hidden - hidden.mean(-1, keepdim=True)) / (hidden.var(-1, keepdim=True) + 1e-6).sqrt()
    views = reconstruct(images, visible, target, 8)
    torch.testing.assert_close(views[:, 3], images)
    torch.testing.assert_close(views[:, 1] + views[:, 2], images)


def test_model_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="image_size=200 must be a multiple of patch_size=32"):
        FCMAE(image_size=200)
    with pytest.raises(ValueError, match=r"ratio=0\.0 hides none of 16 patches"):
        small(ratio=0.0)
    with pytest.raises(
        ValueError, match=r"images are \(64, 64\), the model was made for \(32, 32\)"
    ):
        small()(torch.zeros(1, 3, 64, 64), torch.ones(1, 64, dtype=torch.bool))
    with pytest.raises(ValueError, match="visible patches, not 6"):
        small()(torch.zeros(1, 3, 32, 32), draw_visible(1, 16, 0.5))
