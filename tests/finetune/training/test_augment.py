"""timm's augmentations as functions of their keys, and what they do not take."""

import random

import numpy as np
import pytest
import torch

from data.decode import open_image
from finetune.training.augment import AugmentedCrop, Mix, erase, seeded
from finetune.training.config import AugmentConfig
from tests.support.images import png

NONE = AugmentConfig(rand_augment="", erasing=0.0)


def test_seeded_draws_the_same_again_and_leaves_the_generators_alone() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(()).item()  # noqa: NPY002

    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = []
    for key in ((1, "a"), (1, "a"), (2, "a")):
        with seeded(*key):
            drawn.append(draw())
    assert drawn[0] == drawn[1]
    assert all(a != b for a, b in zip(drawn[1], drawn[2], strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("in_chans", [1, 3])
def test_a_crop_with_a_policy_is_a_function_of_its_generator(in_chans: int) -> None:
    picture = open_image(png(3), "png", in_chans)
    crop = AugmentedCrop(AugmentConfig(), (0.5,), in_chans, "uint8")
    a, b, c = (crop(picture, (16, 16), random.Random(seed)) for seed in (1, 1, 2))
    assert a.shape == (in_chans, 16, 16)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_no_magnitude_of_the_policy_fails_on_an_image() -> None:
    picture = open_image(png(3), "png", 3)
    crop = AugmentedCrop(AugmentConfig(rand_augment="rand-m9-mstd5-inc1"), (0.5,), 3, "uint8")
    for seed in range(300):  # the strongest posterize, refused by Pillow, came in one of thirty
        crop(picture, (8, 8), random.Random(seed))


def test_without_a_policy_the_crop_is_that_of_pretraining() -> None:
    picture = open_image(png(3), "png", 3)
    crop = AugmentedCrop(NONE, (0.5,), 3, "uint8")
    plain = crop.crop(picture, (16, 16), random.Random(1))
    assert torch.equal(crop(picture, (16, 16), random.Random(1)), plain)


def test_erasing_depends_on_each_images_key_alone() -> None:
    images = torch.zeros(4, 3, 16, 16)
    a = erase(images.clone(), 1.0, [(0, 0, i) for i in range(4)])
    b = erase(images.clone()[:2], 1.0, [(0, 0, 2), (0, 0, 3)])
    assert torch.equal(a[2:], b)
    assert all(image.any() for image in a)
    assert torch.equal(erase(images.clone(), 0.0, [(0, 0, 0)] * 4), images)


@pytest.mark.parametrize(
    "config", [AugmentConfig(mixup=0.8), AugmentConfig(cutmix=1.0)], ids=["mixup", "cutmix"]
)
def test_images_and_targets_are_mixed_by_the_same_share(config: AugmentConfig) -> None:
    mix = Mix(config, 0.1, 5)
    images, target = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    x, y = mix(images.clone(), target, 0, 1)
    again, _ = mix(images.clone(), target, 0, 1)
    assert torch.equal(x, again)
    torch.testing.assert_close(y.sum(1), torch.ones(4))
    share = (y[0, 0] - y[0, 4]) / 0.9  # the first image's own class against none of its two
    assert 0 < share < 1
    torch.testing.assert_close((y[0, 3] - y[0, 4]) / 0.9, 1 - share)
    if config.mixup:
        torch.testing.assert_close(x, share * images + (1 - share) * images.flip(0))
    else:
        own = x == images
        assert torch.equal(x, torch.where(own, images, images.flip(0)))
        assert own.float().mean().item() == pytest.approx(share.item())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_chans": 13}, r"works on 8-bit images of 1 or 3 channels, not 13 of uint8"),
        ({"pixels": "float32"}, r"not 3 of float32: give --augment.rand_augment ''"),
        ({"config": AugmentConfig(rand_augment="augmix")}, r"augmix is no policy such as rand-m9"),
    ],
)
def test_policies_refuse_what_they_cannot_work_on(options: dict, message: str) -> None:
    arguments = {"config": AugmentConfig(), "mean": (0.5,), "in_chans": 3, "pixels": "uint8"}
    with pytest.raises(ValueError, match=message):
        AugmentedCrop(**(arguments | options))


def test_mixing_refuses_odd_batches_and_targets_that_are_no_classes() -> None:
    config = AugmentConfig(mixup=0.8)
    with pytest.raises(ValueError, match=r"3 on each process are odd: choose another optim\.batch"):
        Mix(config, 0.1, 5)(torch.zeros(3, 3, 8, 8), torch.zeros(3, dtype=torch.long), 0)
    with pytest.raises(
        ValueError, match=r"mixup=0\.8 and cutmix=0\.0 mix classes, which this task"
    ):
        Mix(config, 0.1, None)
