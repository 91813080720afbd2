"""Any ConvNet of timm on visible patches: nothing hidden counts, whole images are as in timm."""

import copy
from functools import cache
from typing import Any

import pytest
import timm
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from fcmae import FCMAE, draw_visible
from fcmae.architecture import Architecture
from fcmae.encoder import Encoder
from fcmae.encoders.masked_convnet import MaskedConvNet
from fcmae.encoders.on_visible import OnVisible
from fcmae.networks import make_network

# convolution and max pooling; residuals; squeeze-and-excitation; dense blocks and average pooling;
# group norm; GRN and LayerNorm; weights that are standardised
NAMES = (
    "vgg11_bn",
    "resnet18",
    "seresnet18",
    "mobilenetv3_small_050",
    "regnety_002",
    "resnet26d",
    "convnextv2_atto",
    "nf_resnet26",
)
GRID = (3, 2)


def made(name: str) -> MaskedConvNet:
    generator = torch.Generator().manual_seed(0)
    return MaskedConvNet(Architecture(name=f"timm:{name}", image_size=(96, 64)), generator)


made_once = cache(made)


def encoder_of(name: str) -> MaskedConvNet:
    return copy.deepcopy(made_once(name))


def images_and_visible(b: int = 2) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, "b n"]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(b, 3, 96, 64, generator=generator)
    return images, draw_visible(b, 6, 0.5, generator=generator)


def pixels(visible: Bool[Tensor, "b n"]) -> Bool[Tensor, "b 1 h w"]:
    return OnVisible(visible, GRID).at((96, 64))


@pytest.mark.parametrize("name", NAMES)
def test_a_hidden_pixel_changes_no_feature_no_gradient_and_no_statistic(name: str) -> None:
    images, visible = images_and_visible()
    others = torch.where(pixels(visible), images, torch.full_like(images, 1e3))
    found = []
    for batch in (images, others):
        encoder = encoder_of(name).train()
        batch = batch.clone().requires_grad_()
        features = encoder(batch, visible, 3)
        features.square().sum().backward()
        grads = [p.grad for p in encoder.parameters() if p.grad is not None]
        assert batch.grad is not None
        assert not batch.grad.masked_select(~pixels(visible)).any()
        assert batch.grad.masked_select(pixels(visible)).any()
        found.append([features, *grads, *encoder.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_with_everything_visible_the_features_are_timm_s(name: str, *, training: bool) -> None:
    images, _ = images_and_visible()
    encoder = encoder_of(name).train(training)
    theirs = copy.deepcopy(encoder.net)
    with torch.no_grad():
        ours = encoder(images, torch.ones(2, 6, dtype=torch.bool))
        expected = theirs.forward_features(images).flatten(2).mT
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    for mine, its in zip(encoder.net.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)


def test_batch_norm_takes_the_statistics_of_visible_sites() -> None:
    _, visible = images_and_visible()
    x = torch.randn(2, 5, 12, 8)
    mask = OnVisible(visible, GRID).at((12, 8))
    norm = nn.BatchNorm2d(5, momentum=0.3)
    with OnVisible(visible, GRID):
        y = norm(x)
    rows = x.permute(0, 2, 3, 1)[mask[:, 0]]
    expected = nn.BatchNorm1d(5, momentum=0.3)
    torch.testing.assert_close(y.permute(0, 2, 3, 1)[mask[:, 0]], expected(rows))
    torch.testing.assert_close(norm.running_mean, expected.running_mean)
    torch.testing.assert_close(norm.running_var, expected.running_var)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_takes_those_of_an_image(groups: int) -> None:
    _, visible = images_and_visible()
    x = torch.randn(2, 6, 12, 8)
    mask = OnVisible(visible, GRID).at((12, 8))
    norm = nn.GroupNorm(groups, 6)
    nn.init.normal_(norm.weight)
    with OnVisible(visible, GRID):
        y = norm(x)
    for image, out, seen in zip(x, y, mask, strict=True):
        sites = image[:, seen[0]][None]
        torch.testing.assert_close(out[:, seen[0]], norm(sites)[0])


def test_pooling_counts_visible_sites() -> None:
    _, visible = images_and_visible()
    x = torch.randn(2, 4, 12, 8)
    mask = OnVisible(visible, GRID).at((12, 8))
    with OnVisible(visible, GRID):
        means = (F.adaptive_avg_pool2d(x, 1), x.mean((2, 3), keepdim=True))
        last = x.permute(0, 2, 3, 1).mean((1, 2))
        largest = F.adaptive_max_pool2d(x, 1)
        norms = x.norm(p=2, dim=(2, 3))
        averaged = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    for i in range(2):
        sites = x[i][:, mask[i, 0]]
        for mean in means:
            torch.testing.assert_close(mean[i, :, 0, 0], sites.mean(1))
        torch.testing.assert_close(last[i], sites.mean(1))
        torch.testing.assert_close(largest[i, :, 0, 0], sites.amax(1))
        torch.testing.assert_close(norms[i], sites.norm(dim=1))
    shown, counted = x.masked_fill(~mask, 0), mask.float()
    sums, counts = (F.avg_pool2d(t, 3, 1, 1, divisor_override=1) for t in (shown, counted))
    expected = (sums / counts).masked_select(mask)
    torch.testing.assert_close(averaged.masked_select(mask), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet8", "timm has no such network; did you mean timm:resnet"),
        ("vit_tiny_patch16_224", "has no maps of features"),
        ("gcvit_xxtiny", r"its module \S+ fails"),
        ("coat_tiny", "has no maps of features"),
        ("inception_v3", "patches of whole pixels do not tile its maps"),
        ("gcresnet33ts", r"its module stages\.0\.0\.attn reads hidden ones"),
        ("edgenext_xx_small", r"its module stages\.1\.blocks\.1\.xca\S* reads hidden ones"),
    ],
)
def test_a_network_that_cannot_be_restricted_is_refused_by_name(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        made(name)


def test_the_side_of_images_is_a_multiple_of_the_stride() -> None:
    with pytest.raises(ValueError, match="image_size=100 must be a multiple of patch_size=32"):
        FCMAE(name="timm:resnet18", image_size=100)


def test_initial_weights_are_of_the_generator_and_disturb_no_other() -> None:
    before = torch.random.get_rng_state()
    one, two = made("resnet18"), made("resnet18")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    other = MaskedConvNet(Architecture(name="timm:resnet18"), torch.Generator().manual_seed(1))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


@pytest.mark.parametrize(
    ("name", "behind"),
    [
        ("resnet18", ()),
        ("convnextv2_atto", ("head.norm.weight", "head.norm.bias")),
        ("mobilenetv3_small_050", ("conv_head.weight", "conv_head.bias")),
    ],
)
def test_names_are_timm_s_up_to_the_last_map(name: str, behind: tuple[str, ...]) -> None:
    theirs = timm.create_model(name, num_classes=0).state_dict()
    encoder = encoder_of(name)
    assert encoder.net.state_dict().keys() == theirs.keys() - set(behind)
    assert all(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "regnety_002"])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_a_smaller_stem_stride_leaves_out_the_first_halvings(name: str, stem_stride: int) -> None:
    architecture = Architecture(name=f"timm:{name}", image_size=64, stem_stride=stem_stride)
    assert architecture.patch_size == 8 * stem_stride
    with torch.device("meta"):
        net: Any = make_network(name, stem_stride, num_classes=0)
        assert net.forward_features(torch.empty(1, 3, 64, 64)).shape[2] == 8 // stem_stride
        theirs = timm.create_model(name, num_classes=0)
    assert {k: v.shape for k, v in net.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }


def test_a_stem_of_one_layer_keeps_its_stride() -> None:
    with pytest.raises(ValueError, match="stem_stride=1 does not go with timm:convnext_atto"):
        Architecture(name="timm:convnext_atto", stem_stride=1).check()


@pytest.mark.parametrize("name", ["convnextv2_atto", "convnext_atto"])
def test_a_convnext_equals_the_reference_encoder(name: str) -> None:
    images, visible = images_and_visible()
    ours = made_once(name) if name in NAMES else made(name)
    for parameter in ours.parameters():  # GRN starts as nothing
        if parameter.ndim < 2 or not parameter.any():
            nn.init.normal_(parameter)
    reference = Encoder(Architecture(name=name), "reference")
    tensors = ours.net.state_dict()
    reference.load_state_dict(
        {k: tensors[k].reshape(own.shape) for k, own in reference.state_dict().items()}
    )
    ours.zero_grad()
    for encoder in (ours, reference):
        encoder(images, visible, 3).square().mean().backward()
    with torch.no_grad():
        torch.testing.assert_close(
            ours(images, visible, 3), reference(images, visible, 3), rtol=1e-4, atol=1e-5
        )
    grads = {k: p.grad for k, p in ours.net.named_parameters()}
    for k, own in reference.named_parameters():
        assert own.grad is not None
        scale = float(own.grad.abs().max())
        theirs = grads[k]
        assert theirs is not None
        torch.testing.assert_close(
            theirs.reshape(own.shape), own.grad, rtol=1e-3, atol=1e-4 * scale, msg=k
        )


@pytest.mark.parametrize(
    ("name", "stem_stride", "p"), [("resnet18", 2, 16), ("resnet18", 1, 8), ("selecsls42", 4, 64)]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_patches_are_as_large_as_the_stride(
    name: str, stem_stride: int, p: int, layout: torch.memory_format
) -> None:
    encoder = strided(name, stem_stride)
    assert encoder.patch_size == p
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 2 * p, 2 * p, generator=generator)
    visible = torch.tensor([[True, False, False, True], [False, True, True, False]])
    mask = OnVisible(visible, (2, 2)).at((2 * p, 2 * p))
    others = torch.where(mask, images, torch.full_like(images, 1e3))
    with torch.no_grad():
        a, b = (encoder(x.contiguous(memory_format=layout), visible, 2) for x in (images, others))
    assert a.shape == (2, 2, encoder.dim)
    assert torch.equal(a, b)


@cache
def strided(name: str, stem_stride: int) -> MaskedConvNet:
    architecture = Architecture(name=f"timm:{name}", stem_stride=stem_stride)
    return MaskedConvNet(architecture, torch.Generator().manual_seed(0))
