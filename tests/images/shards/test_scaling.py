"""Depth, ranges and missing pixels: what is measured, what is said, and what training sees."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.config import DataConfig, Encoding, PixelConfig
from data.dataset import ShardImages
from data.decode import decode
from data.making.build import build_shards, plan_shards
from data.making.listing import find_entries
from data.shards.depth import DepthMeter
from data.shards.index import Shard, from_entry, read_index, to_entry, write_index
from data.shards.moments import Moments
from data.shards.samples import ShardSamples
from data.shards.scaling import statistics_for
from data.transforms import Crop, Normalise, resize
from tests.support.programs import run

RNG = np.random.default_rng(0)
Arrays = list[np.ndarray]


def shards_of(tmp_path: Path, arrays: Arrays, encoding: Encoding | None = None) -> list[Shard]:
    source = tmp_path / "in"
    source.mkdir()
    for i, array in enumerate(arrays):
        np.save(source / f"{i}.npy", array)
    entries = find_entries(source, "path", None).entries
    jobs = plan_shards(entries, tmp_path / "out", "train", 4, encoding or Encoding())
    built = list(build_shards(jobs, {}, tmp_path / "out" / ".plan", 1))
    assert not [one for part in built for one in part.broken]
    write_index([part.shard for part in built])
    return list(read_index(str(tmp_path / "out")).values())  # as training reads them


def config_of(**fields: object) -> DataConfig:
    chosen: dict[str, object] = {"pixels": "float32", "mean": (), "std": ()}
    return DataConfig(train=("a.tar",), **(chosen | fields))  # pyright: ignore[reportArgumentType]


def twelve_bits(count: int = 8) -> Arrays:
    images = [RNG.integers(0, 4096, (24, 20, 1)).astype(np.uint16) for _ in range(count)]
    for image in images:
        image.flat[:2] = 0, 4095
    return images


def test_the_depth_of_a_shard_is_its_extent_and_where_nearly_all_values_lie() -> None:
    values = RNG.normal(1000, 100, (500, 400, 1))
    values[0, 0] = -30000
    values[0, 1] = 60000
    meter = DepthMeter()
    for part in np.array_split(values.astype(np.float32), 7):
        meter.add(part, None)
    depth = meter.depth()
    assert depth is not None
    assert (depth.types, depth.low, depth.high) == (("float32",), -30000, 60000)
    exact = np.quantile(values, [0.001, 0.999])
    np.testing.assert_allclose(depth.inner, exact, rtol=0.01)
    meter = DepthMeter()
    meter.add(-values, None)
    below = meter.depth()
    assert below is not None
    np.testing.assert_allclose(below.inner, -exact[::-1], rtol=0.01)


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: RNG.integers(0, 4096, (50, 50, 1)).astype(np.uint16), "range 0 4095"),
        (lambda: RNG.integers(31744, 35840, (500, 50, 1)).astype(np.uint16), "range 31744 35839"),
        (lambda: RNG.integers(0, 65536, (50, 50, 1)).astype(np.uint16), ""),
        (lambda: RNG.integers(-1024, 3072, (500, 50, 1)).astype(np.int16), "range -1024 3071"),
        (lambda: RNG.random((50, 50, 1), np.float32), "images use 0 to 1: train with --data.pix"),
        (lambda: np.arange(256, dtype=np.float32).reshape(16, 16, 1), "float32 --data.range 0 255"),
        (lambda: RNG.integers(0, 256, (50, 50, 1), dtype=np.uint8), ""),
        (
            lambda: np.array([[[-9999], [30]]], np.int16),
            "make the shards with --nodata=-9999.0 and",
        ),
        (lambda: np.array([[[np.finfo(np.float32).min], [3]]], np.float32), "--nodata=-3.40282346"),
    ],
)
def test_what_training_needs_is_said(make: Callable[[], np.ndarray], advice: str) -> None:
    meter = DepthMeter()
    image = make()
    if image.dtype == np.float32 and image.max() < 1:
        image.flat[:2] = 0, 1
    meter.add(image, None)
    depth = meter.depth()
    said = depth.advice() if depth else ""
    assert advice in said
    assert bool(said) == bool(advice)


def test_make_shards_names_the_range_of_12_bits_alpha_and_arrays_of_channels_first(
    tmp_path: Path,
) -> None:
    for i in range(3):
        (tmp_path / "deep").mkdir(exist_ok=True)
        image = RNG.integers(0, 4096, (90, 90)).astype(np.uint16)
        image.flat[:2] = 0, 4095
        Image.fromarray(image).save(tmp_path / "deep" / f"{i}.png")
    done = run("scripts/make_shards.py", tmp_path / "deep", tmp_path / "o", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "16-bit images use 0 to 4095: train with --data.range 0 4095" in done.stdout
    (tmp_path / "rest").mkdir()
    clear = np.zeros((20, 20, 4), np.uint8)
    clear[5:9] = 255
    for i in range(2):
        Image.fromarray(clear).save(tmp_path / "rest" / f"{i}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(clear[..., :3]).save(tmp_path / "rest" / "p.jpg", exif=exif)
    np.save(tmp_path / "rest" / "c.npy", clear[..., :3].transpose(2, 0, 1))
    done = run("scripts/make_shards.py", tmp_path / "rest", tmp_path / "r", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "2 images have alpha, and are shown on a background (--background)" in done.stdout
    assert "1 images are arrays of 3 channels first, and are read as [c, h, w]" in done.stdout
    assert "1 images are turned upright by the orientation that their EXIF says" in done.stdout
    (mean,) = [line for line in done.stdout.splitlines() if line.startswith("mean ")]
    assert len(mean.partition("  std")[0].split()) == 4  # the word, and three channels


@pytest.mark.parametrize("pixels", ["uint8", "float32"])
def test_a_range_is_scaled_and_what_lies_beyond_is_clipped(tmp_path: Path, pixels: str) -> None:
    np.save(tmp_path / "a.npy", np.array([[-2000, -1000, 0, 1000, 3000]], np.int16))
    config = PixelConfig(pixels=pixels, range=(-1000.0, 1000.0))  # pyright: ignore[reportArgumentType]
    found = decode((tmp_path / "a.npy").read_bytes(), "npy", 1, config)
    expected = torch.tensor([0, 0, 0.5, 1, 1])
    assert torch.equal(
        found.flatten(), (expected * 255).round().byte() if pixels == "uint8" else expected
    )


def test_12_bits_keep_all_levels_of_8_bits(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(4096, dtype=np.uint16).reshape(64, 64))
    encoded = (tmp_path / "a.npy").read_bytes()
    assert len(decode(encoded, "npy", 1).unique()) == 16
    ranged = decode(encoded, "npy", 1, PixelConfig(range=(0.0, 4095.0)))
    assert len(ranged.unique()) == 256


def test_statistics_are_converted_to_the_range_of_the_run(tmp_path: Path) -> None:
    arrays = twelve_bits()
    shards = shards_of(tmp_path, arrays)
    values = np.concatenate(arrays).astype(np.float64)
    for low, high in ((0.0, 4095.0), (-1000.0, 9000.0)):
        mean, std = statistics_for(config_of(range=(low, high)), shards, print)
        np.testing.assert_allclose(mean, [(values.mean() - low) / (high - low)], rtol=1e-6)
        np.testing.assert_allclose(std, [values.std() / (high - low)], rtol=1e-5)
    mean, _ = statistics_for(config_of(), shards, print)
    np.testing.assert_allclose(mean, [values.mean() / 65535], rtol=1e-6)
    with pytest.raises(ValueError, match=r"index a\.tar --statistics --range 100 2000, or give"):
        statistics_for(config_of(range=(100.0, 2000.0)), shards, print)


def test_statistics_with_a_range_are_those_of_clipped_pixels(tmp_path: Path) -> None:
    arrays = twelve_bits()
    shards = shards_of(tmp_path, arrays, Encoding(range=(100.0, 2000.0)))
    clipped = ((np.concatenate(arrays).astype(np.float64) - 100) / 1900).clip(0, 1)
    mean, std = statistics_for(config_of(range=(100.0, 2000.0)), shards, print)
    np.testing.assert_allclose([*mean, *std], [clipped.mean(), clipped.std()], rtol=1e-5)
    with pytest.raises(ValueError, match="are those of other pixels"):
        statistics_for(config_of(), shards, print)


def test_8_bits_of_a_narrow_range_are_told_at_the_start_of_a_run(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, twelve_bits())
    said: list[str] = []
    statistics_for(config_of(pixels="uint8"), shards, said.append)
    assert said == [
        "8 bits keep few levels: 16-bit images use 0 to 4095: train with --data.range 0 4095"
    ]


@pytest.mark.parametrize("nodata", [None, -9999.0])
def test_missing_pixels_are_left_out_of_statistics_and_become_the_mean(
    tmp_path: Path, nodata: float | None
) -> None:
    arrays = [RNG.normal(5, 2, (16, 16, 2)).astype(np.float32) for _ in range(4)]
    whole = np.concatenate(arrays)
    for array in arrays:
        array[:4, :, 0] = np.nan if nodata is None else nodata
    present = np.where(np.isnan(np.concatenate(arrays)), np.nan, whole)
    if nodata is not None:
        present = np.where(np.concatenate(arrays) == nodata, np.nan, whole)
    shards = shards_of(tmp_path, arrays, Encoding(nodata=nodata))
    config = config_of(nodata=nodata)
    mean, std = statistics_for(config, shards, print)
    np.testing.assert_allclose(mean, np.nanmean(present, (0, 1)), rtol=1e-5)
    np.testing.assert_allclose(std, np.nanstd(present, (0, 1)), rtol=1e-5)
    depth = shards[0].moments and shards[0].moments.depth
    assert depth
    assert depth.low == np.nanmin(present)
    images = ShardImages(ShardSamples(shards), size=(16, 16), in_chans=2, pixels=config)
    item = images[(0, 0)]
    assert item["whole"]
    x = Normalise(mean, std, 2)(item["image"][None])
    assert torch.isfinite(x).all()
    assert (x[0, 0, :4] == 0).all()
    assert x[0, 0, 4:].std() > 0.5
    if nodata is not None:
        with pytest.raises(ValueError, match=r"data.nodata=-9999: missing pixels do not fit"):
            statistics_for(config_of(nodata=nodata, pixels="uint8"), shards, print)
        with pytest.raises(ValueError, match="are those of other pixels"):
            statistics_for(config_of(), shards, print)


def test_a_crop_of_an_image_with_single_missing_pixels_is_made_of_the_others() -> None:
    image = torch.full((1, 64, 64), 3.0)
    image[:, ::7, ::7] = torch.nan
    small = resize(image, (16, 16))
    torch.testing.assert_close(small, torch.full((1, 16, 16), 3.0))
    image[:, :32] = torch.nan
    half = resize(image, (16, 16))
    assert half[:, :7].isnan().all()
    assert torch.isfinite(half[:, 9:]).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (123.675, 116.28, 103.53), "pixels": "uint8"}, "123.675, but .* as 0.485"),
        ({"std": (58.395,), "pixels": "uint8"}, r"data.std has 58.395, but pixels are on the"),
        ({"mean": (128.0,), "range": (0.0, 255.0)}, r"data.mean has 128, but pixels"),
    ],
)
def test_a_mean_on_the_scale_of_255_is_refused(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    shards = shards_of(tmp_path, twelve_bits(2))
    with pytest.raises(ValueError, match=message):
        statistics_for(config_of(**fields), shards, print)


def test_floats_of_255_under_the_mean_of_imagenet_are_refused(tmp_path: Path) -> None:
    arrays = [(RNG.random((8, 8, 3)) * 255).astype(np.float32) for _ in range(4)]
    shards = shards_of(tmp_path, arrays)
    usual = DataConfig(train=("a",), pixels="float32")
    with pytest.raises(ValueError, match=r"hold values from .* give --data.range"):
        statistics_for(usual, shards, print)
    for config in (config_of(), DataConfig(train=("a",), pixels="float32", range=(0.0, 255.0))):
        statistics_for(config, shards, print)


def test_a_constant_channel_is_trained_with_scale_1_and_said(tmp_path: Path) -> None:
    arrays = [RNG.random((30, 30, 3)).astype(np.float32) for _ in range(8)]
    for array in arrays:
        array[..., 1] = 0.3
    said: list[str] = []
    mean, std = statistics_for(config_of(), shards_of(tmp_path, arrays), said.append)
    assert std[1] == 1
    assert said == ["channel 1 of the shards is constant, 0.3: it is trained with scale 1"]
    x = Normalise(mean, std, 3)(torch.from_numpy(arrays[0]).permute(2, 0, 1)[None])
    assert x[0, 1].abs().max() < 1e-6


def test_a_deviation_of_0_and_shares_of_100_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data.std has 0 for channel 1: it must be above 0"):
        Normalise((0.5, 0.5), (0.2, 0.0), 2)
    with pytest.raises(ValueError, match=r"scale 20 100: shares of the image's area are 0 < from"):
        Crop((20.0, 100.0), True)
    Crop((0.2, 1.0), True).box(8, 8, random.Random(0))


@pytest.mark.parametrize("values", [(4095.0, 0.0), (5.0, 5.0)])
def test_a_range_that_is_none_is_refused(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="the first value must be the smaller one"):
        PixelConfig(range=values)


def test_an_index_of_an_earlier_version_is_read_and_not_scaled_blindly(tmp_path: Path) -> None:
    (shard,) = shards_of(tmp_path, twelve_bits(4))
    assert shard.moments is not None
    entry = json.loads(json.dumps(to_entry(shard)))
    assert from_entry(shard.url, entry) == shard
    entry["moments"] = {name: entry["moments"][name] for name in ("count", "sums", "squares")}
    older = from_entry(shard.url, entry)
    assert older.moments == Moments(shard.moments.counts, shard.moments.sums, shard.moments.squares)
    assert statistics_for(config_of(), [older], print) == statistics_for(
        config_of(), [shard], print
    )
    with pytest.raises(ValueError, match="are those of other pixels"):
        statistics_for(config_of(range=(0.0, 4095.0)), [older], print)
