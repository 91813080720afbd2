"""Layer decay and weight decay of fine-tuning, for ConvNeXts and others."""

from typing import Any

import pytest
import timm
from torch import nn

from fcmae.convnexts import SIZES
from finetune.models.layer_decay import group_of, layers, parameter_groups

BLOCKS = ("conv_dw.weight", "mlp.grn.weight")


def model(name: str = "convnextv2_atto", **options: Any) -> nn.Module:
    return timm.create_model(name, num_classes=3, **options)


def test_every_block_of_a_small_model_is_a_layer() -> None:
    layer = layers(model(), "layer")
    assert layer["stem.0.weight"] == 0
    blocks = [(stage, block) for stage, depth in enumerate((2, 2, 6, 2)) for block in range(depth)]
    for expected, (stage, block) in enumerate(blocks, 1):
        for name in BLOCKS:
            assert layer[f"stages.{stage}.blocks.{block}.{name}"] == expected
    assert layer["stages.2.downsample.1.weight"] == layer["stages.2.blocks.0.norm.weight"]
    assert layer["head.fc.weight"] == layer["head.norm.weight"] == len(blocks) + 1


def test_groups_are_the_papers_of_a_large_model() -> None:
    last = 4 + (SIZES["base"].depths[2] - 1) // 3
    names = ["stem.0.weight", "stages.0.blocks.2.norm.bias", "stages.1.downsample.0.weight"]
    names += [f"stages.2.blocks.{block}.conv_dw.weight" for block in (0, 2, 3, 26)]
    names += ["stages.2.downsample.1.bias", "stages.3.downsample.0.bias", "head.norm.weight"]
    assert [group_of(name, last) for name in names] == [0, 1, 2, 3, 3, 4, 11, 3, 12, 13]


def test_groups_count_the_blocks_of_the_model() -> None:
    layer = layers(model(), "group")
    assert layer["stages.2.blocks.5.norm.weight"] == 4
    assert layer["stages.3.blocks.0.norm.weight"] == 5
    assert layer["head.fc.weight"] == 6


def test_the_learning_rate_decays_towards_the_stem_and_the_head_has_all_of_it() -> None:
    net = model()
    scale = {
        parameter: group["scale"]
        for group in parameter_groups(net, 0.3, 0.9, "layer")
        for parameter in group["params"]
    }
    named = dict(net.named_parameters())
    assert len(scale) == len(named)
    assert scale[named["head.fc.bias"]] == 1
    assert scale[named["stages.3.blocks.1.norm.weight"]] == pytest.approx(0.9)
    assert scale[named["stem.0.weight"]] == pytest.approx(0.9**13)


@pytest.mark.parametrize("name", ["convnextv2_atto", "convnext_atto", "resnet18"])
def test_biases_norms_grn_and_layer_scale_do_not_decay(name: str) -> None:
    net = model(name)
    decayed = {
        id(parameter)
        for group in parameter_groups(net, 0.3, 1.0, "layer")
        if group["weight_decay"]
        for parameter in group["params"]
    }
    kernels = (nn.Conv2d, nn.Linear)
    wanted = {id(m.weight) for m in net.modules() if isinstance(m, kernels)}
    assert decayed == wanted


def test_a_vits_tokens_and_positions_do_not_decay() -> None:
    net = model("vit_tiny_patch16_224", img_size=32)
    for group in parameter_groups(net, 0.3, 0.75, "layer"):
        if group["weight_decay"]:
            assert all(p is not net.pos_embed for p in group["params"])
            assert all(p is not net.cls_token for p in group["params"])


def test_layer_decay_and_groups_are_refused_where_they_make_no_sense() -> None:
    with pytest.raises(ValueError, match=r"optim.layer_decay=1.5 must lie in \(0, 1\]; 1 is none"):
        parameter_groups(model(), 0.3, 1.5, "layer")
    with pytest.raises(ValueError, match=r"layer_decay_by=group is for ConvNeXts: take .*=layer"):
        layers(model("resnet18"), "group")
