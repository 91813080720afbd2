"""Broken samples: passed over, counted, named once; too many stop the run on every rank."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.bad_samples import BadSample, BadSamples
from data.config import PixelConfig
from data.dataset import ShardImages
from data.order import GlobalBatches, Order
from data.pipeline import eval_loader
from data.shards.index import Shard
from data.shards.samples import ShardSamples
from data.shards.scanning import index_shard
from data.shards.writing import write_shards
from data.targets import ClassTarget
from data.transforms import Crop
from data.values import Statistics
from tests.support.images import png
from tests.support.programs import start_ranks
from tests.support.shards import write_tar

CROP = Crop((0.2, 1.0), True)


def write(directory: Path, broken: set[int], count: int = 32) -> list[Shard]:
    samples = (
        {"__key__": f"s{i}", "png": b"no image" if i in broken else png(i), "cls": i % 3}
        for i in range(count)
    )
    return write_shards(samples, directory, "train", 16)


def test_the_next_sample_of_the_shard_takes_the_place_of_a_broken_one(tmp_path):
    shards = write(tmp_path, {3, 4, 15})
    images = ShardImages(ShardSamples(shards), size=(16, 16), in_chans=3, crop=CROP, replace=True)
    item = images[(2, 3)]
    why = "8 bytes cannot be decoded as an image (no known format, though its name ends in .png)"
    assert item["bad"] == tuple(BadSample("train-000000.tar", i, f"s{i}", why) for i in (3, 4))
    assert [bad.why for bad in item["bad"]] == [why, why]
    assert item["whole"]
    assert item["sample"] == 3
    # s15 is the last of its shard: s0 takes its place
    assert images[(0, 15)]["image"].float().std() > 0
    assert images[(0, 5)]["bad"] == ()


def test_a_substitute_is_a_function_of_seed_epoch_and_sample(tmp_path):
    shards = write(tmp_path, {3})
    a, b = (
        ShardImages(
            ShardSamples(shards), size=(16, 16), in_chans=3, seed=1, crop=CROP, replace=True
        )
        for _ in range(2)
    )
    assert torch.equal(a[(2, 3)]["image"], b[(2, 3)]["image"])
    assert not torch.equal(a[(2, 3)]["image"], a[(3, 3)]["image"])


def test_a_shard_without_a_single_image_is_an_error(tmp_path):
    samples = ShardSamples(write(tmp_path, set(range(16))))
    images = ShardImages(samples, size=(8, 8), in_chans=3, crop=CROP, replace=True)
    message = (
        r"none of the 16 samples of .*000000\.tar can be read .*'s2'.*take them out of data.train"
    )
    with pytest.raises(ValueError, match=message):
        images[(0, 2)]


def test_evaluation_leaves_a_broken_sample_empty(tmp_path):
    images = ShardImages(ShardSamples(write(tmp_path, {3})), size=(8, 8), in_chans=3)
    item = images[(0, 3)]
    (bad,) = item["bad"]
    assert str(bad).startswith("train-000000.tar: sample 's3': 8 bytes cannot be decoded")
    assert not item["whole"]
    assert item["label"] == -1
    assert not item["image"].any()


@pytest.mark.parametrize(
    ("member", "message"),
    [({"txt": "a cat"}, "no image: expected one of"), ({"png": png(0), "cls": b"cat"}, "'cat'")],
)
def test_a_sample_without_image_or_with_a_wrong_label_is_broken(member, message, tmp_path):
    shards = write_shards([{"__key__": "s", **member}], tmp_path, "train", 1)
    (bad,) = ShardImages(ShardSamples(shards), size=(8, 8), in_chans=3)[(0, 0)]["bad"]
    assert message in bad.why


def test_batches_of_worker_processes_list_their_bad_samples_and_say_which_rows_are_whole(tmp_path):
    images = ShardImages(ShardSamples(write(tmp_path, {1, 2, 9}, 16)), size=(8, 8), in_chans=3)
    for workers in (0, 1):
        first, second = eval_loader(images, batch_size=8, workers=workers)
        assert [bad.key for bad in first["bad"]] == ["s1", "s2"]
        assert first["whole"].tolist() == [i not in (1, 2) for i in range(8)]
        assert [(bad.shard, bad.key) for bad in second["bad"]] == [("train-000000.tar", "s9")]


def test_broken_samples_of_shards_of_one_name_count_each(tmp_path):
    shards = [*write(tmp_path / "a", {0}, 16), *write(tmp_path / "b", {0}, 16)]
    images = ShardImages(ShardSamples(shards), size=(8, 8), in_chans=3, crop=CROP, replace=True)
    bad = BadSamples(32, 1.0)
    bad.add([*images[(0, 0)]["bad"], *images[(0, 16)]["bad"]])
    assert bad.by_shard() == {shard.url: 1 for shard in shards}


def test_each_broken_sample_counts_once():
    bad = BadSamples(100, 0.03)
    a, b, c = BadSample("t", 0, "a", "x"), BadSample("t", 1, "a", "x"), BadSample("u", 1, "c", "x")
    assert str(a) == "t: sample 'a': x"
    assert bad.new([a, b, a]) == [a, b]
    assert bad.add([a, c, a]) == [a, c]
    assert bad.new([a]) == []
    assert bad.add([BadSample("t", 0, "a", "another reason, of another crop")]) == []
    assert bad.by_shard() == {"t": 1, "u": 1}
    assert len(bad) == 2
    with pytest.raises(ValueError, match=r"4 of 100 samples are broken, more than the share"):
        bad.add(BadSample("t", i, "d", "x") for i in (2, 3))
    with pytest.raises(ValueError, match=r"max_bad_fraction=2.0 must be a share"):
        BadSamples(100, 2.0)


def test_a_counter_goes_on_from_its_state():
    bad = BadSamples(100, 0.3)
    bad.add(BadSample("t" if i < 20 else "u", i, f"s{i}", "x") for i in range(25))
    state = json.loads(json.dumps(bad.state()))
    again = BadSamples(100, 0.3)
    again.restore({})  # a checkpoint of an earlier version
    assert len(again) == 0
    again.restore(state)
    assert again.by_shard() == bad.by_shard() == {"t": 20, "u": 5}
    assert again.state() == bad.state()
    assert again.new([BadSample("u", 24, "s24", "y")]) == []
    with pytest.raises(
        ValueError, match=r"31 of 100 samples are broken.*sample 's0': x; .*11 more"
    ):
        again.add(BadSample("v", i, "k", "x") for i in range(6))
    assert str(list(again.met)[24]) == "u: sample number 24, met before"


def floats(tmp_path, *images: np.ndarray) -> ShardSamples:
    samples = ({"__key__": f"s{i}", "npy": array(image)} for i, image in enumerate(images))
    return ShardSamples(write_shards(samples, tmp_path, "train", len(images)))


def array(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, image)
    return file.getvalue()


def test_values_that_cannot_be_measured_ones_make_a_sample_broken(tmp_path):
    image = np.random.default_rng(0).normal(size=(20, 20)).astype(np.float32)
    kinds = {}
    for value in (np.nan, np.inf, -9999.0, 1e20, -3.4028234663852886e38):
        kinds[value] = image.copy()
        kinds[value][3, 4] = value
    kinds[1e300] = np.where(image == image[5, 5], 1e300, image.astype(np.float64))
    samples = floats(tmp_path, *kinds.values(), np.full((20, 20), np.nan, np.float32))
    options: dict[str, Any] = {"size": (20, 20), "in_chans": 1}
    statistics = Statistics((0.0,), (1.0,))
    images = ShardImages(
        samples, pixels=PixelConfig(pixels="float32"), statistics=statistics, **options
    )
    whys = ["; ".join(bad.why for bad in images[(0, i)]["bad"]) for i in range(7)]
    assert whys[0] == ""  # NaN is a missing pixel
    assert whys[1].startswith("some pixels are infinite in 32 bits, such as inf: ")
    for why, value in zip(
        whys[2:5], ("-9999.0", "1.0000000200408773e+20", "-3.40282346"), strict=True
    ):
        assert why.startswith(f"the value {value}")
        assert "is more than 5000 standard deviations" in why
        assert f"--data.nodata={value}" in why
    assert whys[5].startswith("some pixels are infinite in 32 bits, such as 1e+300: ")
    assert "--data.nodata" in whys[5]
    assert whys[6].startswith("all pixels are missing")
    for i, nodata in ((2, -9999.0), (4, -3.4028234663852886e38), (5, 1e300)):
        config = PixelConfig(pixels="float32", nodata=nodata)
        images = ShardImages(samples, pixels=config, statistics=statistics, **options)
        assert images[(0, i)]["whole"]


def pretrain(shards: Path, directory: Path, *flags: str) -> list[tuple[int, str]]:
    """Status and output of each of two ranks."""
    options = [
        *("--run.dir", directory, "--data.train", f"{shards}/train-{{000000..000001}}.tar"),
        *("--optim.batch_size", "8", "--optim.steps", "8", "--data.workers", "1"),
        *("--run.log_every", "2", "--run.picture_every", "0", "--model.decoder_dim", "32"),
    ]
    ranks = start_ranks(2, "pretrain.py", "scripts/recipes/demo.yaml", *options, *flags)
    return [(rank.wait(120), rank.communicate()[0]) for rank in ranks]


@pytest.mark.dist
def test_two_ranks_name_a_broken_sample_once_and_count_it_by_shard(tmp_path):
    write(tmp_path / "shards", {5, 20})
    ranks = pretrain(tmp_path / "shards", tmp_path / "run", "--data.max_bad_fraction", "0.1")
    assert [status for status, _ in ranks] == [0, 0], ranks
    outputs = "".join(output for _, output in ranks)
    assert outputs.count("skipped train-000000.tar: sample 's5'") == 1
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(text) for text in metrics.splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    # eight steps of eight are two epochs of 32
    assert lines[-1]["bad_samples"] == {"train-000000.tar": 1, "train-000001.tar": 1}


@pytest.mark.dist
def test_too_many_broken_samples_of_one_rank_stop_both_with_the_list(tmp_path):
    first = {  # what each rank reads before the first line of the log
        rank: {
            sample
            for part in GlobalBatches(
                Order([16, 16], 0, 64), batch_size=8, start=0, steps=2, rank=rank, world=2
            )
            for _, sample in part
        }
        for rank in (0, 1)
    }
    bad = min(first[1])  # rank 0 does not meet it
    assert bad not in first[0]
    write(tmp_path / "shards", {bad})
    for status, output in pretrain(tmp_path / "shards", tmp_path / "run", "--seed", "0"):
        assert status == 1, output
        (line,) = [line for line in output.splitlines() if "error: 1 of 32 samples" in line]
        assert f"sample 's{bad}'" in line


@pytest.mark.parametrize(
    "member",
    [
        b"{",
        b"null",
        b"[1]",
        b"[" * 50_000,
        b'{"a": 1, "a": 2}',
        b"\xff",
        b'{"a": %s}' % (b"7" * 5000),
        *(
            b'{"a": %s}' % value
            for value in (b"7" * 400, b"1e300", b'"7"' * 9, b"[7]", b"{}", b"-7")
        ),
    ],
)
def test_a_broken_json_member_makes_its_sample_broken(member: bytes, tmp_path: Path) -> None:
    members = [("a.png", png(0)), ("a.json", member), ("b.png", png(1)), ("b.json", b'{"a": 1}')]
    shards = [index_shard(write_tar(tmp_path / "s.tar", members))]
    items = ShardImages(ShardSamples(shards), size=(8, 8), in_chans=3, target=ClassTarget("a"))
    assert [items[(0, i)]["whole"] for i in (0, 1)] == [False, True]
    (bad,) = items[(0, 0)]["bad"]
    assert str(bad).startswith("s.tar: sample 'a': json ")
    assert str(bad).isprintable()
    assert len(str(bad)) < 250
    grouped = ShardImages(ShardSamples(shards), size=(8, 8), in_chans=3, group="a")
    assert grouped[(0, 1)]["group"] == "1"


@pytest.mark.parametrize("label", [b"9" * 9999, b"1e300", b"99999999", b"cat" * 999, b"\xff"])
def test_a_class_that_is_no_number_of_one_makes_its_sample_broken(
    label: bytes, tmp_path: Path
) -> None:
    members = [("a.png", png(0)), ("a.cls", label), ("b.png", png(1)), ("b.cls", b"1")]
    shards = [index_shard(write_tar(tmp_path / "s.tar", members))]
    items = ShardImages(ShardSamples(shards), size=(8, 8), in_chans=3)
    assert [items[(0, i)]["whole"] for i in (0, 1)] == [False, True]
    assert len(str(items[(0, 0)]["bad"][0])) < 250
