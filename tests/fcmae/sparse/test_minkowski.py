"""The encoder on MinkowskiEngine: equal to the reference, exactly sparse, GRN over one image."""

import sys
import warnings

import pytest
import torch

from fcmae import FCMAE, draw_visible
from fcmae.architecture import Architecture
from fcmae.encoder import Encoder
from fcmae.layers import GrnMlp
from fcmae.sparse import implementation
from tests.support.generators import generator
from tests.support.programs import run
from tests.support.twins import (
    assert_twins_agree,
    every_shape,
    randomise,
    twins,
    value_and_gradients,
)


def why_missing() -> str:
    """The error of choosing it, or nothing. Its import warns on machines of more than 16 cores."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            implementation("minkowski")
        except ValueError as error:
            return str(error)
    return ""


MISSING = why_missing()
installed = pytest.mark.skipif(bool(MISSING), reason=MISSING)


# float32 rounds at 6e-8, and sums of up to 1280 terms in 12 blocks leave 5e-6, as for `gathered`.
@installed
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"]
)
@every_shape
@pytest.mark.parametrize(
    "name", ["convnextv2_atto", pytest.param("convnext_atto", marks=pytest.mark.slow)]
)
def test_minkowski_equals_reference_in_values_and_every_gradient(
    name: str,
    ratio: float,
    height: int,
    width: int,
    in_chans: int,
    stem_stride: int,
    b: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    reference, minkowski = twins(
        dtype, "minkowski", name=name, in_chans=in_chans, stem_stride=stem_stride
    )
    n = height * width // reference.patch_size**2
    images = torch.randn(b, in_chans, height, width, generator=generator(1)).to(dtype)
    visible = draw_visible(b, n, ratio, generator=generator(2))
    assert_twins_agree(reference, minkowski, images, visible, tolerance)


@installed
def test_sites_that_are_zero_stay_sites() -> None:
    reference, minkowski = twins(sparse="minkowski")
    images = torch.randn(2, 3, 64, 96, generator=generator(1)).double()
    images[:, :, :40] = 0  # black patches, and one that is black in part
    visible = draw_visible(2, 6, 0.5, generator=generator(2))
    assert_twins_agree(reference, minkowski, images, visible, tolerance=1e-10)


@installed
def test_hidden_pixels_never_reach_minkowski() -> None:
    encoder = Encoder(Architecture(), "minkowski").double()
    randomise(encoder)
    images = torch.randn(2, 3, 96, 96, generator=generator(1)).double()
    visible = draw_visible(2, 9, 0.6, generator=generator(2))
    hidden = (~visible).view(2, 1, 3, 3).repeat_interleave(32, 2).repeat_interleave(32, 3)
    weights = torch.randn(2, 3, encoder.dim, generator=generator(3)).double()
    before = value_and_gradients(encoder, images, visible, weights)
    encoder.zero_grad()
    broken = images.masked_fill(hidden, torch.nan)
    after = value_and_gradients(encoder, broken, visible, weights)
    for name, value in before.items():  # its threads may add the terms of a gradient in any order
        torch.testing.assert_close(after[name], value, rtol=1e-10, atol=1e-10, msg=name)
    assert torch.equal(before["features"], after["features"])
    assert after["images"].masked_select(hidden).eq(0).all()
    assert after["images"].masked_select(~hidden).ne(0).any()


@installed
def test_grn_pools_over_one_image_not_the_batch() -> None:
    visible = torch.tensor([[True, True, False, True], [False, True, True, True]])
    x = torch.randn(2, 3, 2, 2, 5, generator=generator(1))
    x[1] *= 100
    mlp = GrnMlp(5)
    randomise(mlp)
    out = mlp(x, implementation("minkowski")(visible, (2, 2), 3))
    a = torch.nn.functional.gelu(mlp.fc1(x))
    norm = a.square().sum((1, 2, 3), keepdim=True).sqrt()
    response = norm / (norm.mean(-1, keepdim=True) + 1e-6)
    expected = mlp.fc2(mlp.grn.weight * a * response + mlp.grn.bias + a)
    torch.testing.assert_close(out, expected)


@installed
def test_features_of_an_image_do_not_depend_on_its_batch() -> None:
    encoder = Encoder(Architecture(), "minkowski").double()
    randomise(encoder)
    images = torch.randn(3, 3, 64, 64, generator=generator(1)).double()
    images[1:] *= 100
    visible = draw_visible(3, 4, 0.5, generator=generator(2))
    together, alone = encoder(images, visible), encoder(images[:1], visible[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@installed
def test_loss_and_prediction_equal_those_of_gathered() -> None:
    images = torch.randn(2, 3, 64, 96, generator=generator(1))
    visible = draw_visible(2, 6, 0.6, generator=generator(2))
    models = [
        FCMAE(image_size=(64, 96), sparse=sparse, generator=generator(3))
        for sparse in ("gathered", "minkowski")
    ]
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
    (loss, prediction), (expected_loss, expected) = (model(images, visible) for model in models)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(prediction, expected, rtol=1e-4, atol=1e-6)


@installed
def test_each_coordinate_map_is_made_once_a_batch() -> None:
    visible = draw_visible(2, 6, 0.6, generator=generator(1))
    sparse = implementation("minkowski")(visible, (2, 3), 2)
    conv = torch.nn.Conv2d(4, 4, kernel_size=7, padding=3, groups=4)
    x = torch.randn(2, 2, 8, 8, 4, generator=generator(2))
    sparse.depthwise(x, conv)
    key, pairs = sparse.keys[8], sparse.pairs[8]  # type: ignore[attr-defined]
    sparse.depthwise(x, conv)
    assert sparse.keys == {8: key}  # type: ignore[attr-defined]
    assert sparse.pairs[8] is pairs  # type: ignore[attr-defined]


@installed
def test_bf16_autocast_computes_the_operations_in_float32() -> None:
    # 8 bits of mantissa, some 40 roundings in sequence that partly cancel: as for `gathered`.
    encoder = Encoder(Architecture(), "minkowski")
    images = torch.randn(2, 3, 96, 96, generator=generator(1))
    visible = draw_visible(2, 9, 0.6, generator=generator(2))
    exact = encoder(images, visible)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = encoder(images, visible)
    rounded.float().square().mean().backward()
    assert (rounded - exact).abs().max() <= 0.05 * exact.abs().max()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@installed
def test_other_devices_are_refused() -> None:
    visible = torch.ones(1, 4, dtype=torch.bool, device="meta")
    with pytest.raises(ValueError, match=r"runs on the CPU, not on meta: .* use sparse='gathered'"):
        implementation("minkowski")(visible, (2, 2), 4)


def test_the_error_without_it_names_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fcmae.sparse.minkowski", raising=False)
    monkeypatch.setitem(sys.modules, "MinkowskiEngine", None)
    message = (
        r"^sparse='minkowski' needs MinkowskiEngine.* with scripts/install_minkowski\.sh, or use"
    )
    with pytest.raises(ValueError, match=message):
        FCMAE(sparse="minkowski")


def test_it_is_imported_only_when_chosen() -> None:
    code = "import sys, fcmae; fcmae.FCMAE(); print(*sys.modules)"
    found = set(run("-c", code).stdout.split())
    assert "fcmae.sparse.gathered" in found
    assert not found & {"fcmae.sparse.minkowski", "MinkowskiEngine"}
