"""Small changes of crops: what each does to the pixels, and what it leaves as it was."""

import io
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data.config import DataConfig, JitterConfig, Pixels
from data.decode import Picture, open_image
from data.jitter import JitteredCrop, rotated
from data.order import GlobalBatches, Order
from data.pipeline import train_loader
from data.shards.writing import write_shards
from data.transforms import Crop
from tests.support.images import png

CROP = Crop((0.5, 1.0), True)
SIZE = (16, 12)


def picture(seed: int = 0) -> Picture:
    pixels = np.random.default_rng(seed).integers(60, 180, (20, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return open_image(file.getvalue(), "png", 3)


def jittered(seed: int, std: float = 0.25, **values: float) -> Tensor:
    crop = JitteredCrop(CROP, JitterConfig(**values), (std,), 3, "uint8")
    return crop(picture(), SIZE, random.Random(seed))


def test_without_any_change_the_crop_stays_and_draws_do_not_move() -> None:
    plain = CROP(picture(), SIZE, random.Random(3))
    assert torch.equal(jittered(3), plain)
    assert torch.equal(jittered(3, contrast=1e-9), plain)  # changed by less than half a level
    assert not torch.equal(jittered(3, contrast=0.5), jittered(4, contrast=0.5))
    assert torch.equal(jittered(3, contrast=0.5), jittered(3, contrast=0.5))


@pytest.mark.parametrize("seed", range(5))
def test_brightness_and_contrast_are_relative_to_the_data(seed: int) -> None:
    plain = CROP(picture(), SIZE, random.Random(seed)).float()
    mean = plain.mean((1, 2))
    brighter = jittered(seed, brightness=0.2).float()
    shift = (brighter - plain).mean((1, 2))
    assert shift.abs().max() <= 0.2 * 0.25 * 255 + 0.5
    assert shift.std() < 0.2  # all channels alike, but for rounding
    sharper = jittered(seed, contrast=0.4).float()
    assert (sharper.mean((1, 2)) - mean).abs().max() < 0.3
    factor = (sharper - mean[:, None, None]).std() / (plain - mean[:, None, None]).std()
    assert 0.59 < factor < 1.41
    assert abs(factor - 1) > 0.001


def test_turning_by_a_right_angle_is_exact_and_small_angles_keep_the_centre() -> None:
    image = torch.randn(13, 9, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotated(image, 90.0), image.rot90(-1, (1, 2)), atol=1e-4, rtol=0)
    torch.testing.assert_close(rotated(image, 0.0), image, atol=1e-5, rtol=0)
    turned = rotated(image, 20.0)
    torch.testing.assert_close(turned[:, 4, 4], image[:, 4, 4], atol=1e-4, rtol=0)


def test_turning_keeps_angles_where_sides_differ_and_mirrors_beyond_them() -> None:
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(12.0), indexing="ij")
    ramp = (columns - 5.5)[None]  # grows by 1 a pixel, to the right
    turned = rotated(ramp, 30.0)[0, 5:11, 3:9]
    angle = math.radians(30)
    wanted = math.cos(angle) * (columns - 5.5) + math.sin(angle) * (rows - 7.5)
    # cubic weights give back no slope exactly; 1 degree more would be 0.1 off, two pixels away
    torch.testing.assert_close(turned, wanted[5:11, 3:9], atol=0.06, rtol=0)
    assert rotated(torch.ones(1, 16, 12), 30.0).sub(1).abs().max() < 1e-5


def test_missing_pixels_stay_missing_and_spread_no_further() -> None:
    image = torch.ones(1, 16, 16)
    image[0, 4:8, 4:8] = torch.nan
    turned = rotated(image, 10.0)
    assert 10 <= turned.isnan().sum() <= 22
    assert turned[~turned.isnan()].sub(1).abs().max() < 1e-4


def test_colours_change_and_grey_stays_grey() -> None:
    plain = CROP(picture(), SIZE, random.Random(1))
    changed = jittered(1, colour=0.8)
    assert changed.dtype == torch.uint8
    assert not torch.equal(changed, plain)
    grey = np.full((20, 24, 3), 77, np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "png")
    crop = JitteredCrop(CROP, JitterConfig(colour=0.8), (0.25,), 3, "uint8")
    out = crop(open_image(file.getvalue(), "png", 3), SIZE, random.Random(1))
    assert (out.int() - 77).abs().max() <= 1


@pytest.mark.parametrize(("in_chans", "pixels"), [(1, "uint8"), (13, "float32"), (3, "float32")])
def test_colours_of_other_images_are_refused(in_chans: int, pixels: Pixels) -> None:
    with pytest.raises(ValueError, match=r"data\.jitter\.colour=0\.4 changes the colours of 8-bit"):
        JitteredCrop(CROP, JitterConfig(colour=0.4), (0.25,), in_chans, pixels)


def test_measured_values_of_many_channels_are_changed_in_their_own_units(tmp_path) -> None:
    tile = 1000 + 50 * np.random.default_rng(0).standard_normal((32, 32, 13)).astype(np.float32)
    file = io.BytesIO()
    np.save(file, tile)
    image = open_image(file.getvalue(), "npy", 13, DataConfig(train=(), pixels="float32"))
    config = JitterConfig(rotate=5.0, brightness=0.5, contrast=0.2)
    crop = JitteredCrop(CROP, config, (50.0,), 13, "float32")
    out = crop(image, SIZE, random.Random(0))
    assert out.shape == (13, *SIZE)
    assert out.dtype == torch.float32
    assert 900 < float(out.mean()) < 1100
    assert not torch.equal(out, CROP(image, SIZE, random.Random(0)))


def test_the_loader_changes_both_views_by_draws_of_their_own(tmp_path) -> None:
    samples = ({"__key__": f"s{i}", "png": png(i)} for i in range(8))
    shards = write_shards(samples, tmp_path, "train", 8)

    def batch(workers: int, **values: float) -> Tensor:
        config = DataConfig(train=(), workers=workers, jitter=JitterConfig(**values))
        order = GlobalBatches(Order([8], 0, 1), batch_size=4, start=0, steps=1)
        loader = train_loader(
            shards, config, order, size=(16, 16), in_chans=3, pin_memory=False, views=2
        )
        return next(iter(loader))["image"]

    plain, turned = batch(0), batch(0, rotate=10.0, brightness=0.3)
    assert not (plain == turned).flatten(1).all(1).any()
    assert torch.equal(turned, batch(1, rotate=10.0, brightness=0.3))
