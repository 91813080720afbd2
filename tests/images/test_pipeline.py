"""The order of samples, and crops that depend on nothing but (seed, epoch, sample)."""

import io
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.config import DataConfig
from data.dataset import ShardImages
from data.decode import Picture, open_image
from data.fitting import Fitted
from data.order import GlobalBatches, Order
from data.pipeline import train_loader
from data.shards.index import Shard
from data.shards.samples import ShardSamples
from data.shards.writing import write_shards
from data.transforms import Crop, Normalise
from tests.support.namespaces import run_after
from tests.support.programs import lines_of, run


def png(seed: int, size: tuple[int, int] = (40, 48), mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, len(mode)), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "png")
    return file.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    samples = ({"__key__": f"s{i}", "png": png(i), "cls": i % 3} for i in range(25))
    return write_shards(samples, tmp_path, "train", 10)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
def test_loader_gives_the_same_pixels_with_any_number_of_workers(shards: list[Shard]) -> None:
    def batches(workers: int) -> list[dict]:
        config = DataConfig(train=("unused",), workers=workers)
        order = GlobalBatches(Order([10, 10, 5], 0, 2), batch_size=4, start=0, steps=8)
        return list(
            train_loader(shards, config, order, size=(32, 24), in_chans=3, pin_memory=False)
        )

    for a, b in zip(batches(0) + batches(0), batches(1) + batches(4), strict=True):
        assert a["image"].shape == (4, 3, 32, 24)
        assert torch.equal(a.pop("image"), b.pop("image"))
        assert str(a) == str(b)


def test_crops_change_with_the_epoch_and_not_with_the_run(shards: list[Shard]) -> None:
    images = ShardImages(
        ShardSamples(shards), size=(16, 16), in_chans=3, seed=5, crop=Crop((0.2, 1.0), True)
    )
    again = ShardImages(
        ShardSamples(shards), size=(16, 16), in_chans=3, seed=5, crop=Crop((0.2, 1.0), True)
    )
    assert torch.equal(images[(2, 7)]["image"], again[(2, 7)]["image"])
    assert not torch.equal(images[(2, 7)]["image"], images[(3, 7)]["image"])


def test_views_are_crops_of_one_sample_the_first_as_without_others(shards: list[Shard]) -> None:
    def batches(workers: int, views: int) -> list[dict]:
        config = DataConfig(train=("unused",), workers=workers)
        order = GlobalBatches(Order([10, 10, 5], 0, 2), batch_size=4, start=0, steps=3)
        loader = train_loader(
            shards, config, order, size=(32, 24), in_chans=3, views=views, pin_memory=False
        )
        return list(loader)

    for one, two, again in zip(batches(0, 1), batches(0, 2), batches(1, 2), strict=True):
        assert two["image"].shape == (8, 3, 32, 24)
        assert torch.equal(two["image"][::2], one["image"])
        assert not (two["image"][::2] == two["image"][1::2]).flatten(1).all(1).any()
        assert torch.equal(two["image"], again["image"])
        assert two["key"] == one["key"]


def test_crop_boxes_keep_to_scale_and_image() -> None:
    rng, crop = random.Random(0), Crop((0.2, 1.0), True)
    for _ in range(500):
        top, left, h, w = crop.box(50, 70, rng)
        assert 0 <= top <= 50 - h
        assert 0 <= left <= 70 - w
        # rounding to whole pixels moves area and aspect a little
        assert 0.19 <= h * w / 3500 <= 1.01
        assert 0.7 <= w / h <= 1.45


def test_boxes_that_fit_are_those_of_ten_tries_at_most() -> None:
    """The rule in other words: the first of ten boxes that fits, with the same draws."""
    for seed in range(300):
        rng = random.Random(seed)
        for _ in range(10):
            area = 50 * 70 * rng.uniform(0.2, 1.0)
            aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if h <= 50 and w <= 70:
                break
        else:
            continue
        wanted = int(rng.random() * (51 - h)), int(rng.random() * (71 - w)), h, w
        assert Crop((0.2, 1.0), True).box(50, 70, random.Random(seed)) == wanted


@pytest.mark.parametrize(("height", "width"), [(1000, 10), (10, 1000), (200, 3000)])
def test_crops_of_a_long_picture_are_seen_all_over_it(height: int, width: int) -> None:
    crop, rng = Crop((0.2, 1.0), False), random.Random(0)
    boxes = [crop.box(height, width, rng) for _ in range(1000)]
    short, long = sorted((height, width))
    assert {sorted(box[2:])[0] for box in boxes} == {short}
    assert {sorted(box[2:])[1] for box in boxes} == {round(short * 4 / 3)}
    places = [max(top, left) for top, left, _, _ in boxes]
    room = long - round(short * 4 / 3)
    assert min(places) < 0.01 * room
    assert max(places) > 0.99 * room
    counts = np.histogram(places, 4, (0, room + 1))[0]
    assert counts.min() > 200  # of the 250 that a uniform place has in each quarter


def picture(image: np.ndarray) -> Picture:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return open_image(file.getvalue(), "png")


def test_half_of_the_images_are_mirrored() -> None:
    image = picture(np.arange(12, dtype=np.uint8).reshape(3, 4))
    whole = image.read((0, 0, 3, 4))
    crop, rng = Crop((1.0, 1.0), True), random.Random(0)
    flips = sum(not torch.equal(crop(image, (3, 4), rng), whole) for _ in range(400))
    assert 150 < flips < 250


def test_centre_crop_of_a_wide_image_is_its_middle() -> None:
    image = np.zeros((10, 30), np.uint8)
    image[:, 10:20] = 200
    assert Fitted()(picture(image), (10, 10)).eq(200).all()


def test_normalise_is_per_channel() -> None:
    images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    normalise = Normalise((0.5, 0.25, 0.0), (0.5, 0.25, 1.0), 3)
    out = normalise(images)
    assert out[0, :, 0, 0].tolist() == pytest.approx([1.0, 3.0, 1.0])
    torch.testing.assert_close(normalise.inverse(out), torch.ones(1, 3, 2, 2))
    with pytest.raises(ValueError, match=r"data\.mean has 2 values for in_chans=3"):
        Normalise((0.5, 0.5), (1.0,), 3)


def loading(batch_size: int, workers: int, side: int, *then: str) -> str:
    """A program that loads the demo's test images, with lines on the iterator `left`."""
    lines = "\n    ".join(then)
    return f"""
import multiprocessing
import os
import signal
from data.config import DataConfig
from data.order import GlobalBatches, Order
from data.pipeline import train_loader
from data.shards.reading import open_shards
from fcmae.run.program import run_program

def main(argv):
    shards = open_shards("data/demo/test-000000.tar.gz")
    order = Order([shard.samples for shard in shards], seed=0, window=1)
    batches = GlobalBatches(order, batch_size={batch_size}, start=0, steps=1000)
    config = DataConfig(train=(), workers={workers})
    size = ({side}, {side})
    left = iter(train_loader(shards, config, batches, size=size, in_chans=3, pin_memory=False))
    {lines}

run_program(main)
"""


def test_a_killed_worker_ends_in_one_line() -> None:
    kill = "os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)"
    code = loading(4, 2, 64, "next(left)", kill, "list(left)")
    done = run("-c", code)
    assert done.returncode == 1
    (line,) = lines_of(done.stderr)
    assert re.fullmatch(
        r"error: DataLoader worker (\(pid \d+\) is killed by signal: Killed|was lost with its"
        " batch); if memory has run out, give fewer --data.workers, or 0",
        line,
    )


def test_a_batch_that_shared_memory_cannot_hold_ends_in_one_line(tmp_path: Path) -> None:
    code = loading(16, 1, 224, "next(left)")
    done = run_after("mount -t tmpfs -o size=1m tmpfs /dev/shm", code)
    assert done.returncode == 1
    (line,) = lines_of(done.stderr)
    assert line.startswith("error: shared memory has no room for a batch of images: give /dev/shm")
    assert "--data.workers 0" in line
