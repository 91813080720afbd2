"""Pooling of the maps of any timm model to one vector an image."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from finetune.models.backbone import backbone
from finetune.models.config import RandomConfig
from finetune.models.pooling import pooled

IMAGES = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
SMALL_SWIN = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "img_size": 56}
SMALL_VIT: dict[str, Any] = {"img_size": 56, "patch_size": 14, "depth": 5, "embed_dim": 48}


def convnext() -> nn.Module:
    return backbone("none", RandomConfig(image_size=56, stem_stride=1))[0].eval()


@torch.no_grad()
def test_last_is_the_mean_over_positions_without_the_final_norm() -> None:
    model = convnext()
    expected = model.forward_features(IMAGES).mean((2, 3))  # type: ignore[operator]
    assert torch.equal(pooled(model, IMAGES, "last"), expected)


@torch.no_grad()
def test_stages_are_the_means_of_the_maps_behind_each_stage() -> None:
    model = convnext()
    x, expected = model.get_submodule("stem")(IMAGES), []
    for i in range(4):
        x = model.get_submodule(f"stages.{i}")(x)
        expected.append(x.mean((2, 3)))
    found = pooled(model, IMAGES, "stages")
    assert found.shape == (2, 40 + 80 + 160 + 320)
    assert torch.equal(found, torch.cat(expected, dim=1))


@pytest.mark.parametrize(
    ("name", "options", "last", "stages"),
    [
        ("resnet10t", {}, 512, 64 + 128 + 256 + 512),
        ("vit_tiny_patch16_224", SMALL_VIT, 48, 4 * 48),  # tokens [b, n, d]
        ("swin_tiny_patch4_window7_224", SMALL_SWIN, 192, 24 + 48 + 96 + 192),  # maps [b, h, w, d]
    ],
)
@torch.no_grad()
def test_other_models_are_pooled_as_timm_pools_them(
    name: str, options: dict, last: int, stages: int
) -> None:
    model = timm.create_model(name, num_classes=0, **options).eval()
    found = pooled(model, IMAGES, "last")
    assert found.shape == (2, last)
    torch.testing.assert_close(found, model(IMAGES))
    assert pooled(model, IMAGES, "stages").shape == (2, stages)


def test_too_few_levels_for_stages_are_refused() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **{**SMALL_VIT, "depth": 3})
    message = "pool=stages takes 4 levels of maps and VisionTransformer has 3; take --pool last"
    with pytest.raises(ValueError, match=message):
        pooled(model, IMAGES, "stages")
