"""The order of samples, and crops that depend on nothing but (seed, epoch, sample)."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.index import Shard
from data.pipeline import DataConfig, GlobalBatches, ShardImages, epoch_order, train_loader
from data.transforms import Crop, Normalise, centre_crop, decode
from data.write import write_shards


def png(seed: int, size: tuple[int, int] = (40, 48), mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, len(mode)), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "png")
    return file.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    samples = ({"__key__": f"s{i}", "png": png(i), "cls": i % 3} for i in range(25))
    return write_shards(samples, tmp_path, "train", 10)


def positions(world: int, micro_batches: int, start: int = 0, steps: int = 9) -> list[list]:
    """The global batches, put together from all ranks."""
    ranks = [
        list(
            GlobalBatches(
                samples=25,
                seed=3,
                batch_size=8,
                start=start,
                steps=steps,
                rank=rank,
                world=world,
                micro_batches=micro_batches,
            )
        )
        for rank in range(world)
    ]
    return [
        [
            item
            for rank in ranks
            for micro in rank[step * micro_batches : (step + 1) * micro_batches]
            for item in micro
        ]
        for step in range(steps)
    ]


@pytest.mark.parametrize(("world", "micro_batches"), [(1, 2), (2, 1), (2, 2), (4, 1), (8, 1)])
def test_global_batches_do_not_depend_on_processes(world: int, micro_batches: int) -> None:
    assert positions(world, micro_batches) == positions(1, 1)


def test_every_sample_comes_exactly_once_an_epoch() -> None:
    items = [item for batch in positions(1, 1, steps=25) for item in batch]  # 200 = 8 epochs of 25
    assert Counter(items) == Counter((e, s) for e in range(8) for s in range(25))


def test_batches_from_samples_seen_on_equal_the_uninterrupted_ones() -> None:
    assert positions(2, 1, start=5 * 8, steps=4) == positions(2, 1)[5:]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    assert np.array_equal(epoch_order(100, 1, 2), epoch_order(100, 1, 2))
    assert not np.array_equal(epoch_order(100, 1, 2), epoch_order(100, 1, 3))
    assert not np.array_equal(epoch_order(100, 1, 2), epoch_order(100, 2, 2))


@pytest.mark.parametrize("batch_size", [0, 6])
def test_a_batch_that_does_not_divide_is_refused(batch_size: int) -> None:
    with pytest.raises(ValueError, match=rf"optim.batch_size={batch_size} must be a multiple of"):
        GlobalBatches(
            samples=9, seed=0, batch_size=batch_size, start=0, steps=1, world=2, micro_batches=2
        )


def test_loader_gives_the_same_pixels_with_any_number_of_workers(shards: list[Shard]) -> None:
    def batches(workers: int) -> list[dict]:
        config = DataConfig(train=("unused",), workers=workers)
        order = GlobalBatches(samples=25, seed=0, batch_size=4, start=0, steps=8)
        return list(
            train_loader(shards, config, order, size=(32, 24), in_chans=3, pin_memory=False)
        )

    for a, b in zip(batches(0), batches(2), strict=True):
        assert a["image"].shape == (4, 3, 32, 24)
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_crops_change_with_the_epoch_and_not_with_the_run(shards: list[Shard]) -> None:
    images = ShardImages(shards, size=(16, 16), in_chans=3, seed=5, crop=Crop((0.2, 1.0), True))
    again = ShardImages(shards, size=(16, 16), in_chans=3, seed=5, crop=Crop((0.2, 1.0), True))
    assert torch.equal(images[(2, 7)]["image"], again[(2, 7)]["image"])
    assert not torch.equal(images[(2, 7)]["image"], images[(3, 7)]["image"])


def test_crop_boxes_keep_to_scale_and_image() -> None:
    rng, crop = np.random.default_rng(0), Crop((0.2, 1.0), True)
    for _ in range(500):
        top, left, h, w = crop.box(50, 70, rng)
        assert 0 <= top <= 50 - h
        assert 0 <= left <= 70 - w
        # rounding to whole pixels moves area and aspect a little
        assert 0.19 <= h * w / 3500 <= 1.01
        assert 0.7 <= w / h <= 1.45


def test_a_tall_image_falls_back_to_a_centred_box() -> None:
    top, left, h, w = Crop((0.9, 1.0), False).box(1000, 10, np.random.default_rng(0))
    assert (left, w) == (0, 10)
    assert h == 13
    assert top == 493


def test_half_of_the_images_are_mirrored() -> None:
    image = torch.arange(12, dtype=torch.uint8).view(1, 3, 4)
    crop, rng = Crop((1.0, 1.0), True), np.random.default_rng(0)
    flips = sum(not torch.equal(crop(image, (3, 4), rng), image) for _ in range(400))
    assert 150 < flips < 250


def test_centre_crop_of_a_wide_image_is_its_middle() -> None:
    image = torch.zeros(1, 10, 30, dtype=torch.uint8)
    image[:, :, 10:20] = 200
    assert centre_crop(image, (10, 10)).eq(200).all()


@pytest.mark.parametrize(("mode", "in_chans"), [("RGB", 3), ("L", 1), ("RGBA", 4), ("RGB", 1)])
def test_images_decode_to_the_channels_asked_for(mode: str, in_chans: int) -> None:
    assert decode(png(0, mode=mode), in_chans).shape == (in_chans, 40, 48)


def test_broken_images_and_impossible_channels_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="in_chans=13: PNG and JPEG images decode to 1, 3 or 4"):
        decode(png(0), 13)
    samples = [{"__key__": "good", "png": png(0)}, {"__key__": "bad", "png": b"no image"}]
    shards = write_shards(samples, tmp_path, "train", 2)
    images = ShardImages(shards, size=(8, 8), in_chans=3)
    assert images[(0, 0)]["label"] == -1
    with pytest.raises(ValueError, match=r"000000\.tar: sample 'bad': 8 bytes cannot be decoded"):
        images[(0, 1)]


def test_normalise_is_per_channel() -> None:
    images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    normalise = Normalise((0.5, 0.25, 0.0), (0.5, 0.25, 1.0), 3)
    out = normalise(images)
    assert out[0, :, 0, 0].tolist() == pytest.approx([1.0, 3.0, 1.0])
    torch.testing.assert_close(normalise.inverse(out), torch.ones(1, 3, 2, 2))
    with pytest.raises(ValueError, match=r"data\.mean has 2 values for in_chans=3"):
        Normalise((0.5, 0.5), (1.0,), 3)


def test_16_bit_grey_keeps_its_upper_bits() -> None:
    file = io.BytesIO()
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(file, "png")
    assert np.array_equal(decode(file.getvalue(), 1)[0].numpy(), ramp >> 8)
