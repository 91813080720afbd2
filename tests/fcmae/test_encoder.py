"""The sparse encoder: two implementations agree, equal timm when all is visible, and never leak."""

import pytest
import timm
import torch

from fcmae import convnexts, draw_visible
from fcmae.architecture import Architecture
from fcmae.encoder import Encoder
from tests.support.generators import generator
from tests.support.twins import (
    assert_twins_agree,
    every_shape,
    randomise,
    twins,
    value_and_gradients,
)


@every_shape
@pytest.mark.parametrize(
    "name", ["convnextv2_atto", pytest.param("convnext_atto", marks=pytest.mark.slow)]
)
def test_gathered_equals_reference_in_values_and_every_gradient(
    name: str, ratio: float, height: int, width: int, in_chans: int, stem_stride: int, b: int
) -> None:
    reference, gathered = twins(name=name, in_chans=in_chans, stem_stride=stem_stride)
    n = height * width // reference.patch_size**2
    images = torch.randn(b, in_chans, height, width, generator=generator(1)).double()
    visible = draw_visible(b, n, ratio, generator=generator(2))
    assert_twins_agree(reference, gathered, images, visible, tolerance=1e-10)


def test_gathered_equals_reference_in_float32() -> None:
    # 12 blocks of sums over up to 1280 terms: float32 rounds at 6e-8, sums and depth leave 1e-4.
    reference, gathered = twins(torch.float32)
    images = torch.randn(2, 3, 96, 96, generator=generator(1))
    visible = draw_visible(2, 9, 0.6, generator=generator(2))
    assert_twins_agree(reference, gathered, images, visible, tolerance=1e-4)


@pytest.mark.parametrize("sparse", ["gathered", "reference"])
@pytest.mark.parametrize(
    "name",
    ["convnextv2_atto", "convnext_atto", pytest.param("convnext_tiny", marks=pytest.mark.slow)],
)
def test_features_equal_timm_when_every_patch_is_visible(name: str, sparse: str) -> None:
    theirs = timm.create_model(name, num_classes=0).double().eval()
    randomise(theirs)
    ours = Encoder(Architecture(name=name), sparse).double()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("head.")}
    own = ours.state_dict()
    assert state.keys() == own.keys()  # timm's small models hold linear layers as 1x1 convolutions
    ours.load_state_dict({k: v.reshape(own[k].shape) for k, v in state.items()})
    images = torch.randn(2, 3, 64, 96, generator=generator(1)).double()
    features = ours(images, torch.ones(2, 6, dtype=torch.bool))
    expected = theirs.get_submodule("stages")(theirs.get_submodule("stem")(images))
    expected = expected.flatten(2).transpose(1, 2)
    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sparse", ["gathered", "reference"])
def test_hidden_pixels_never_reach_the_encoder(sparse: str) -> None:
    encoder = Encoder(Architecture(), sparse).double()
    randomise(encoder)
    images = torch.randn(2, 3, 96, 96, generator=generator(1)).double()
    visible = draw_visible(2, 9, 0.6, generator=generator(2))
    hidden = (~visible).view(2, 1, 3, 3).repeat_interleave(32, 2).repeat_interleave(32, 3)
    weights = torch.randn(2, 3, encoder.dim, generator=generator(3)).double()
    before = value_and_gradients(encoder, images, visible, weights)
    encoder.zero_grad()
    broken = images.masked_fill(hidden, torch.nan)  # even what poisons every sum
    after = value_and_gradients(encoder, broken, visible, weights)
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert after["images"].masked_select(hidden).eq(0).all()
    assert after["images"].masked_select(~hidden).ne(0).any()


@pytest.mark.parametrize("sparse", ["gathered", "reference"])
def test_features_of_an_image_do_not_depend_on_its_batch(sparse: str) -> None:
    encoder = Encoder(Architecture(), sparse).double()
    randomise(encoder)
    images = torch.randn(3, 3, 64, 64, generator=generator(1)).double()
    images[1:] *= 100
    visible = draw_visible(3, 4, 0.5, generator=generator(2))
    together, alone = encoder(images, visible), encoder(images[:1], visible[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-12, atol=1e-12)


def test_features_come_in_raster_order() -> None:
    encoder = Encoder(Architecture(stem_stride=1)).double()
    images = torch.randn(1, 3, 16, 16, generator=generator(1)).double()
    apart = []
    for patch in range(4):  # alone, each patch has one feature, whatever the order
        visible = torch.zeros(1, 4, dtype=torch.bool)
        visible[0, patch] = True
        apart.append(encoder(images, visible)[0, 0])
    together = encoder(images, torch.ones(1, 4, dtype=torch.bool))[0]
    distance = torch.cdist(torch.stack(apart), together)
    assert distance.argmin(dim=1).tolist() == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("name", convnexts.NAMES)
def test_every_size_has_the_parameters_of_its_timm_model(name: str) -> None:
    architecture = Architecture(name=name)
    with torch.device("meta"):
        ours = Encoder(architecture)
        # timm has no V1 huge and no V2 xlarge
        timm_name = name if timm.is_model(name) else f"{architecture.family}_large"
        theirs = timm.create_model(
            timm_name, num_classes=0, depths=architecture.size.depths, dims=architecture.size.widths
        )
    head = sum(p.numel() for p in theirs.get_submodule("head").parameters())
    assert sum(p.numel() for p in ours.parameters()) + head == sum(
        p.numel() for p in theirs.parameters()
    )


def test_bf16_autocast_stays_close_to_float32() -> None:
    # bf16 keeps 8 bits: 2^-8 a rounding, some 40 roundings in sequence that partly cancel.
    encoder = Encoder(Architecture())
    images = torch.randn(2, 3, 96, 96, generator=generator(1))
    visible = draw_visible(2, 9, 0.6, generator=generator(2))
    exact = encoder(images, visible)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = encoder(images, visible)
    rounded.float().square().mean().backward()
    assert (rounded - exact).abs().max() <= 0.05 * exact.abs().max()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "resnet50"}, "model name='resnet50' is none of convnextv2_atto"),
        ({"stem_stride": 3}, "stem_stride=3 must be 4, 2 or 1"),
        ({"in_chans": 0}, "in_chans=0 must be at least 1"),
    ],
)
def test_bad_arguments_name_value_rule_and_way_out(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoder(Architecture(**kwargs))


def test_an_unknown_implementation_is_named_with_those_there_are() -> None:
    message = "sparse='dense' is none of gathered, reference, minkowski"
    with pytest.raises(ValueError, match=message):
        Encoder(Architecture(), "dense")


def test_sizes_that_do_not_fit_are_refused() -> None:
    encoder = Encoder(Architecture())
    with pytest.raises(ValueError, match="image_size=200 must be a multiple of patch_size=32; try"):
        encoder(torch.zeros(1, 3, 200, 224), torch.ones(1, 42, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"have 2x3 patches of 32: pass visible as \(1, 6\)"):
        encoder(torch.zeros(1, 3, 64, 96), torch.ones(1, 4, dtype=torch.bool))
    unequal = torch.tensor([[True, False], [True, True]])
    with pytest.raises(ValueError, match=r"images have 1 to 2 visible patches, not 1"):
        encoder(torch.zeros(2, 3, 32, 64), unequal)
