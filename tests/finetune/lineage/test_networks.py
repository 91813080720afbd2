"""The networks of the first years: their layers and parameters are those of the papers."""

import math
from typing import cast

import pytest
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from finetune.lineage.lenet import LeNet5, PartlyConnected, Squash, Subsampling
from finetune.lineage.network import Network
from finetune.lineage.networks import NETWORKS
from finetune.lineage.zfnet import ZFNet
from finetune.models.classifier import create
from finetune.models.config import BackboneConfig, RandomConfig


def made(name: str, in_chans: int = 3, outputs: int = 1000) -> Network:
    """A network without memory for its weights."""
    with torch.device("meta"):
        return NETWORKS[name].make(in_chans, outputs).eval()


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def test_layers_of_lenet_have_as_many_parameters_as_the_paper_says() -> None:
    net = LeNet5(in_chans=1, outputs=0)
    counts = [count(layer) for layer in (*net.maps, *net.vector) if count(layer)]
    assert counts == [156, 12, 1516, 32, 48_120, 10_164]
    assert count(net) == 60_000


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("alexnet", 61_100_840),
        ("zfnet", 62_357_608),
        ("vgg16", 138_357_544),
        ("googlenet", 6_624_904),
    ],
)
def test_networks_have_as_many_parameters_as_is_published(name: str, parameters: int) -> None:
    assert count(made(name)) == parameters


def test_layers_of_zfnet_have_as_many_parameters_and_sites_as_figure_3_says() -> None:
    net = made("zfnet")
    assert isinstance(net, ZFNet)
    counts = [count(layer) for layer in (*net.maps, *net.vector, net.head) if count(layer)]
    maps = [14_208, 614_656, 885_120, 1_327_488, 884_992]
    assert counts == [*maps, 37_752_832, 16_781_312, 4_097_000]
    x = torch.empty(1, 3, 224, 224, device="meta")
    sides = []
    for layer in net.maps:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            sides.append(x.shape[-1])
    assert sides == [110, 55, 26, 13, 13, 13, 13, 6]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_take_images_of_any_size_from_their_smallest_on(name: str) -> None:
    net = made(name, in_chans=2, outputs=7)
    smallest = NETWORKS[name].smallest
    for height, width in ((smallest, smallest), (smallest, 91), (64, 64), (224, 160)):
        images = torch.empty(2, 2, height, width, device="meta")
        assert net(images).shape == (2, 7)
        vector = net.forward_head(net.forward_features(images), pre_logits=True)
        assert vector.shape == (2, net.num_features)
    with pytest.raises(RuntimeError):
        net(torch.empty(2, 2, smallest - 1, smallest - 1, device="meta"))


def test_a_subsampling_is_that_of_the_paper() -> None:
    layer = Subsampling(1)
    nn.init.constant_(layer.weight, 0.5)
    nn.init.constant_(layer.bias, 3.0)
    x = torch.tensor([[[[1.0, 2.0, 5.0, 5.0], [3.0, 4.0, 5.0, 5.0]]]])
    torch.testing.assert_close(layer(x), torch.tensor([[[[8.0, 13.0]]]]))


def test_squashing_goes_through_one_at_one() -> None:
    """As appendix A chooses its numbers: f(1) = 1, f(-1) = -1."""
    squashed = Squash()(torch.tensor([1.0, -1.0, 100.0]))
    torch.testing.assert_close(squashed, torch.tensor([1.0, -1.0, 1.7159]), atol=1e-4, rtol=0)


def test_each_map_of_c3_reads_its_own_maps_of_s2_alone() -> None:
    layer = LeNet5().maps[4]
    assert isinstance(layer, PartlyConnected)
    x = torch.randn(1, 6, 5, 5, requires_grad=True)
    read = []
    for map_ in layer(x).flatten():
        (gradient,) = torch.autograd.grad(map_, x, retain_graph=True)
        read.append(tuple(gradient.abs().sum((0, 2, 3)).nonzero().flatten().tolist()))
    assert tuple(read) == layer.read
    assert len(set(read)) == 16
    assert [len(maps) for maps in read] == [3] * 6 + [4] * 9 + [6]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns_in_a_layer_of_its_own_depth(name: str) -> None:
    net = made(name)
    layers = cast("dict[str, int]", group_parameters(net, net.group_matcher(), reverse=True))
    assert layers.keys() == dict(net.named_parameters()).keys()
    assert list(layers.values()) == sorted(layers.values())
    assert layers["head.weight"] == max(layers.values()) > 5 - (name == "lenet5")
    assert len(
        set(group_parameters(net, net.group_matcher(coarse=True), reverse=True).values())
    ) in ((2, 3))


def test_initial_weights_are_those_of_the_papers() -> None:
    lenet = LeNet5(in_chans=1)
    bound = 2.4 / 25
    assert bound * 0.8 < lenet.get_parameter("maps.0.weight").abs().max() <= bound
    with torch.device("cpu"):
        zfnet = ZFNet(outputs=2)
    weights: Tensor = zfnet.get_parameter("maps.8.weight")
    assert math.isclose(weights.std().item(), 0.01, rel_tol=0.01)
    assert not zfnet.get_parameter("maps.8.bias").any()


def backbone(name: str, side: int = 64, **options: float | bool) -> BackboneConfig:
    """What `fcmae finetune --backbone` parses."""
    random = RandomConfig(image_size=side, in_chans=1, mean=(0.5,), std=(0.25,))
    return BackboneConfig(backbone=name, random=random, **options)  # type: ignore[arg-type]


def test_fine_tuning_takes_them_as_backbones() -> None:
    model, metadata = create(backbone("lineage:lenet5"), outputs=3, seed=0)
    assert metadata.model == "lineage:lenet5"
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 3)
    again, _ = create(backbone("lineage:lenet5"), outputs=3, seed=0)
    assert all(
        torch.equal(mine, other)
        for mine, other in zip(model.parameters(), again.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (backbone("lineage:lenet"), "take lineage: and one of lenet5, alexnet"),
        (backbone("lineage:zfnet", 62), "image_size=62 leaves lineage:zfnet no site: .*least 63"),
        (backbone("lineage:vgg16", drop_path=0.1), "has neither stochastic depth nor pretrained"),
        (backbone("lineage:vgg16", pretrained=True), "has neither stochastic depth nor pretrained"),
        (backbone("other:vgg16"), "must be timm:NAME or lineage:NAME"),
    ],
)
def test_what_they_have_not_is_refused(config: BackboneConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(config, outputs=3, seed=0)
