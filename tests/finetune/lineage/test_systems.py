"""The systems of the lineage: all are there, their code exists, and they cost what is published."""

import pytest
import torch

from fcmae import FCMAE, draw_visible
from fcmae.model_config import ModelConfig
from finetune.lineage.code_places import place_of
from finetune.lineage.costs import dense, flops
from finetune.lineage.systems import SYSTEMS, System, chosen
from tests.support.programs import ROOT

# GFLOPs of an image of 224 px, two for each multiplication and addition, as their papers or the
# libraries that have them publish them
PUBLISHED = {
    "alexnet": 1.43,
    "vgg16": 31.0,
    "googlenet": 3.0,
    "resnet18": 3.64,
    "resnet50": 8.2,
    "vit_tiny": 2.5,
    "vit_small": 9.2,
    "convnext": 1.1,
    "convnextv2": 1.1,
}


@pytest.mark.parametrize("code", sorted({code for s in SYSTEMS.values() for code in s.code}))
def test_each_idea_stands_where_it_is_said_to(code: str) -> None:
    place = place_of(code)
    name = code.partition(":")[2]
    assert any(
        line.startswith((f"class {name}", f"def {name}")) for line in place.text.splitlines()
    )
    if place.ours:
        lines = (ROOT / place.file).read_text().splitlines(keepends=True)
        assert "".join(lines[place.first - 1 : place.last]) == place.text
    else:
        assert place.file.partition("/")[0] in ("timm", "torch", "torchvision")


@pytest.mark.parametrize("code", ["fcmae.layers:Blocks", "fcmae.layer:Block"])
def test_an_idea_that_stands_nowhere_is_an_error(code: str) -> None:
    with pytest.raises((ImportError, ValueError), match=code):
        place_of(code)


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_each_idea_is_told_in_two_sentences(system: System) -> None:
    assert system.idea.count(". ") == 1
    assert system.idea.endswith(".")


def test_the_line_is_whole_and_in_the_order_of_its_years() -> None:
    years = [system.year for system in SYSTEMS.values()]
    assert years == sorted(years)
    assert len(SYSTEMS) == 12
    assert all(system.backbone or system.encoder for system in SYSTEMS.values())


def test_systems_are_chosen_by_their_keys_in_their_order() -> None:
    assert [s.key for s in chosen(("resnet18", "lenet5"))] == ["lenet5", "resnet18"]
    assert len(chosen(())) == len(SYSTEMS)
    with pytest.raises(ValueError, match="systems has resnet, which is none of lenet5, alexnet"):
        chosen(("resnet",))


@pytest.mark.slow
@pytest.mark.parametrize("key", PUBLISHED)
def test_flops_are_those_that_are_published(key: str) -> None:
    with torch.random.fork_rng():
        model = dense(SYSTEMS[key], 224, 3, 4).to("meta")
    images = torch.empty(1, 3, 224, 224, device="meta")
    assert flops(model, images) / 1e9 == pytest.approx(PUBLISHED[key], rel=0.04)


def test_attention_and_depthwise_convolutions_are_counted() -> None:
    """Of torch's and of our own operators on a CPU, of which torch's counter knows neither."""
    q = torch.randn(2, 3, 5, 4)

    class Attention(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    assert flops(Attention(), q) == 2 * 2 * (2 * 3 * 5 * 5 * 4)
    model = FCMAE(image_size=32, stem_stride=1, ratio=0.75, decoder_dim=16)
    visible = draw_visible(1, model.n, 0.75)
    masked = flops(model.encoder, torch.randn(1, 3, 32, 32), visible)
    whole = flops(model.encoder, torch.randn(1, 3, 32, 32), torch.ones_like(visible))
    assert masked * 4 == whole
    depthwise = sum(
        2 * 49 * depth * width * (32 // 2**stage) ** 2
        for stage, (depth, width) in enumerate(zip((2, 2, 6, 2), (40, 80, 160, 320), strict=True))
    )
    assert whole > depthwise
    products = sum(
        2 * p.numel() * (32 // 2 ** int(name.split(".")[1])) ** 2
        for name, p in model.encoder.named_parameters()
        if p.ndim == 2
    )
    stem_and_downsampling = whole - depthwise - products
    assert 0 < stem_and_downsampling < 0.2 * whole


@pytest.mark.parametrize("system", [s for s in SYSTEMS.values() if s.encoder], ids=lambda s: s.key)
def test_pretrained_systems_see_and_miss_some_of_the_default_images(system: System) -> None:
    stem = system.stem_stride or ModelConfig.stem_stride
    config = ModelConfig(name=system.encoder, image_size=64, ratio=system.ratio, stem_stride=stem)
    config.check()
    assert 1 < config.visible_patches < config.patches
