"""Whole pictures fitted to a size: as timm does it, all over them, and masks with their images."""

import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from data.config import IGNORED, Fit, PixelConfig, Pixels
from data.dataset import ShardImages
from data.decode import OversizedImage, Picture, open_image
from data.fitting import Fitted, layout_of
from data.pipeline import eval_loader
from data.pixel_labels import MaskedCrop
from data.shards.reading import open_shards
from data.shards.samples import ShardSamples
from data.shards.writing import write_shards
from data.transforms import resize
from tests.support.images import encoded, photograph

MEAN = (0.5, 0.4, 0.3)
SIZES = [(401, 333), (130, 397), (375, 502), (99, 700), (31, 47), (64, 64)]
MODES: dict[Fit, str] = {"crop": "center", "pad": "border", "squash": "squash"}


def picture(image: np.ndarray) -> Picture:
    return open_image(encoded(image), "png")


@pytest.mark.parametrize("fit", MODES)
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_a_picture_is_fitted_as_timm_fits_it(fit: Fit, size: tuple[int, int]) -> None:
    options = {"mean": MEAN, "crop_pct": 1.0, "crop_mode": MODES[fit], "normalize": False}
    theirs = cast("Any", create_transform((3, *size), interpolation="bicubic", **options))
    for height, width in SIZES:
        image = photograph(height, width)
        found = Fitted(fit, MEAN)(picture(image), size)
        assert torch.equal(found, theirs(Image.fromarray(image))), (height, width)


@pytest.mark.parametrize("pixels", ["uint8", "float32"])
def test_an_image_of_the_size_asked_for_keeps_its_bits(pixels: Pixels) -> None:
    opened = open_image(encoded(photograph(64, 64)), "png", 3, PixelConfig(pixels=pixels))
    before = resize(opened.read((0, 0, 64, 64), (64, 64)), (64, 64))
    for fit in MODES:
        assert torch.equal(Fitted(fit)(opened, (64, 64)), before)
    assert torch.equal(Fitted("tiles")(opened, (64, 64)), before[None])


@pytest.mark.parametrize(("height", "width"), [*SIZES, (200, 3000), (3000, 200), (64, 129)])
def test_tiles_cover_a_picture_evenly(height: int, width: int) -> None:
    layout = layout_of(height, width, (64, 64), "tiles")
    covered = np.zeros(layout.size, int)
    for top, left in layout.corners:
        assert covered[top : top + 64, left : left + 64].shape == (64, 64)
        covered[top : top + 64, left : left + 64] += 1
    assert covered.min() == 1
    assert covered.max() <= 2
    assert len(layout.corners) == -(-max(layout.size) // 64)
    steps = np.diff([max(corner) for corner in layout.corners])
    assert steps.max(initial=0) - steps.min(initial=64) <= 1


@pytest.mark.parametrize("upright", [False, True])
def test_the_far_end_of_a_long_picture_is_seen_but_by_the_crop(upright: bool) -> None:
    image = np.zeros((200, 3000, 3), np.uint8)
    image[:, 2900:] = 255
    opened = picture(image.swapaxes(0, 1) if upright else image)
    assert Fitted("crop")(opened, (64, 64)).max() == 0
    tiles = Fitted("tiles")(opened, (64, 64))
    assert tiles.shape == (15, 3, 64, 64)
    assert [int(tile.max()) for tile in tiles] == [0] * 14 + [255]
    squashed = Fitted("squash")(opened, (64, 64)).float()
    assert squashed.mean() / 255 == pytest.approx(1 / 30, abs=2e-3)
    padded = Fitted("pad", MEAN)(opened, (64, 64))
    assert padded.shape == (3, 64, 64)
    shown = padded.mT if upright else padded
    assert shown[:, :30].eq(torch.tensor([128, 102, 76])[:, None, None]).all()
    assert (shown[:, 31:33, -1] > 200).all()


def test_a_picture_too_thin_to_be_resized_is_refused_by_name() -> None:
    thin = picture(np.zeros((1, 20000), np.uint8))
    with pytest.raises(
        OversizedImage, match=r"1 x 20000 pixels become 224 x 4480000 .* or take fit pad or squash"
    ):
        Fitted("tiles")(thin, (224, 224))
    assert Fitted("pad")(thin, (224, 224)).shape == (1, 224, 224)


@pytest.mark.parametrize("fit", MODES)
@pytest.mark.parametrize("shape", [(90, 61), (60, 133), (17, 300)])
def test_a_mask_is_fitted_as_its_image(fit: Fit, shape: tuple[int, int]) -> None:
    """The image shows the mask, in steps wide enough that no resampling mixes them up."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    mask = (rows * 4 // shape[0] + 4 * (columns * 4 // shape[1])).astype(np.uint8)
    image, found = MaskedCrop(Fitted(fit, (1.0,)))(
        picture(mask * 16), torch.from_numpy(mask), (48, 64), random.Random(0)
    )
    inside = found != IGNORED
    assert torch.equal(~inside, image[0] == 255)
    shown = (image[0] / 16).round()
    same = (shown == found)[inside].float().mean()
    assert same > 0.8  # the rest lies along the edges of the steps
    shifted = [(torch.roll(shown, 4, axis) == found)[inside].float().mean() for axis in (0, 1)]
    assert same > max(shifted)


def test_a_batch_tells_how_many_tiles_each_picture_has(tmp_path: Path) -> None:
    wide = [16, 40, 100]
    members = [{"__key__": f"s{w}", "png": encoded(photograph(16, w)), "cls": 0} for w in wide]
    members.insert(1, {"__key__": "bad", "png": b"no image", "cls": 0})
    write_shards(members, tmp_path, "train", 4)
    samples = ShardSamples(open_shards(str(tmp_path / "train-000000.tar")))
    images = ShardImages(samples, size=(16, 16), in_chans=3, crop=Fitted("tiles"))
    (batch,) = eval_loader(images, batch_size=4, workers=0)
    assert batch["tiles"] == [1, 1, 3, 7]
    assert batch["image"].shape == (12, 3, 16, 16)
    assert torch.equal(batch["image"][2:5], images[(0, 2)]["image"])
    assert batch["whole"].tolist() == [True, False, True, True]
