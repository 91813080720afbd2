"""The embedded data set: its hashes, its split, its licences, and that it can be built again."""

import io
import itertools
import json
import shutil
import subprocess
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image
from webdataset.compat import WebDataset

from data.sets import demo
from data.sets.embedded import Split, encode_png
from data.sets.packages import download
from data.shards.reading import open_shards, read_sample
from tests.support.programs import run

# webdataset closes its files only when they are collected
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

SPLITS: tuple[tuple[Split, str], ...] = (("train", demo.TRAIN), ("test", demo.TEST))


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict]]:
    """The samples of each split, decoded: key, image, cls and the fields of json."""
    read = {}
    for split, spec in SPLITS:
        read[split] = []
        for shard in open_shards(spec):  # verifies the hashes of the committed files
            for i in range(shard.samples):
                sample = read_sample(shard, i)
                png = sample["png"]
                assert isinstance(png, bytes)
                image = Image.open(io.BytesIO(png)).convert("RGB")
                about = {"key": sample["__key__"], "cls": int(sample["cls"]), "image": image}
                read[split].append(about | json.loads(sample["json"]))
    return read


def test_the_set_has_the_promised_size(splits):
    assert {split: len(samples) for split, samples in splits.items()} == {
        "train": 4886,
        "test": 1164,
    }
    everything = [*splits["train"], *splits["test"]]
    assert {sample["image"].size for sample in everything} == {(demo.SIZE, demo.SIZE)}
    assert sum(path.stat().st_size for path in demo.HERE.iterdir()) <= 15e6


def test_no_group_is_on_both_sides(splits):
    groups = {split: {sample["group"] for sample in samples} for split, samples in splits.items()}
    assert not groups["train"] & groups["test"]


def test_no_image_is_on_both_sides(splits):
    images = {
        split: {sample["image"].tobytes() for sample in samples}
        for split, samples in splits.items()
    }
    assert not images["train"] & images["test"]


def test_every_class_gives_a_fifth_of_its_groups_to_test(splits):
    for label, name in enumerate(demo.CLASSES):
        train, test = (
            {sample["group"] for sample in splits[split] if sample["cls"] == label}
            for split in ("train", "test")
        )
        assert test, name
        # a group shared with another class is counted there: one group of slack
        assert abs(len(test) - 0.2 * len(train | test)) <= 1.5, name


def test_labels_keys_and_names_agree(splits):
    assert json.loads((demo.HERE / "classes.json").read_text()) == list(demo.CLASSES)
    keys = set()
    for sample in [*splits["train"], *splits["test"]]:
        assert sample["key"] == f"{sample['style']}/{sample['name']}"
        assert demo.CLASSES[sample["cls"]] == sample["category"]
        assert sample["group"] == demo.group_of(sample["name"])
        assert "skin-tone" not in sample["name"]
        keys.add(sample["key"])
    assert len(keys) == 4886 + 1164


def test_every_train_shard_mixes_classes_and_styles():
    for shard in open_shards(demo.TRAIN, verify=False):
        samples = [read_sample(shard, i) for i in range(0, shard.samples, 4)]
        labels = Counter(int(sample["cls"]) for sample in samples)
        styles = Counter(str(sample["__key__"]).split("/")[0] for sample in samples)
        assert len(labels) == len(demo.CLASSES)
        assert len(styles) == len(demo.STYLES)
        assert max(styles.values()) < 0.4 * len(samples)


def test_plain_webdataset_reads_every_sample(splits):
    shards = [shard.url for shard in open_shards([demo.TRAIN, demo.TEST], verify=False)]
    dataset: Any = WebDataset(shards, shardshuffle=False).decode("pil")
    for plain, ours in zip(dataset, [*splits["train"], *splits["test"]], strict=True):
        assert plain["__key__"] == ours["key"]
        assert plain["cls"] == ours["cls"]
        assert plain["json"]["group"] == ours["group"]
        assert plain["png"].tobytes() == ours["image"].tobytes()


def test_notice_names_every_source_with_its_version():
    notice = (demo.HERE / "NOTICE").read_text()
    for package in demo.STYLES.values():
        assert f"{package.name} {package.version}" in notice
    assert "Copyright (c) Microsoft Corporation" in notice
    assert "Apache License" in (demo.HERE / "LICENSE-Apache-2.0").read_text()


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("clock-face", ["one-oclock", "eleven-thirty"]),
        ("person", ["man", "woman", "child", "old-man", "man-red-hair", "woman-curly-hair"]),
        ("walking", ["man-walking", "woman-walking-facing-right", "person-walking"]),
        ("family", ["family", "family-man-woman-boy", "family-adult-child"]),
        ("heart", ["red-heart", "light-blue-heart"]),
        ("arrow", ["up-arrow", "down-left-arrow", "left-right-arrow"]),
        ("moon", ["full-moon", "new-moon-face", "waxing-gibbous-moon"]),
        ("moon-cake", ["moon-cake"]),
        ("merperson", ["mermaid", "merman", "merperson"]),
    ],
)
def test_variants_of_a_motif_form_one_group(group, names):
    assert {demo.group_of(name) for name in names} == {group}


def test_split_does_not_depend_on_the_order_of_names():
    category = {f"thing-{i}": demo.CLASSES[i % 2] for i in range(50)}
    backwards = dict(reversed(category.items()))
    held_out = demo.held_out_groups(category)
    assert held_out == demo.held_out_groups(backwards)
    assert len(held_out) == 10


def test_png_is_lossless_with_few_and_with_many_colours():
    ramp = np.arange(72 * 72 * 3, dtype=np.uint32).reshape(72, 72, 3)
    for pixels in (ramp % 251, ramp % 7 * 30, np.zeros_like(ramp)):
        image = Image.fromarray(pixels.astype(np.uint8))
        decoded = Image.open(io.BytesIO(encode_png(image))).convert("RGB")
        assert decoded.tobytes() == image.tobytes()


def demo_program(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "data.demo", *arguments, env=env)


def test_check_counts_classes():
    done = demo_program("check")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["all", "4886", "1164"]


def test_build_says_what_is_missing(tmp_path):
    failed = demo_program("build", "--source", str(tmp_path), "--out", str(tmp_path))
    assert failed.returncode == 1
    assert "error: " in failed.stderr
    assert "npm pack @iconify-json/noto@1.2.9" in failed.stderr
    failed = demo_program("build", "--out", str(tmp_path), PATH=str(tmp_path))
    assert failed.returncode == 1
    assert "error: npm is not installed; install Node.js, or run `npm pack" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_failing_download_is_reported(tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    nowhere = {"npm_config_registry": "http://127.0.0.1:9/", "npm_config_fetch_retries": "0"}
    failed = demo_program(
        "build", "--out", str(tmp_path), npm_config_cache=str(tmp_path), **nowhere
    )
    assert failed.returncode == 1
    assert "error: npm pack failed; run `npm pack" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.slow
def test_the_committed_set_is_what_its_sources_make(tmp_path):
    pytest.importorskip("resvg_py", reason="resvg-py is not installed")
    try:
        download(tuple(demo.STYLES.values()), tmp_path)
    except OSError as error:
        pytest.skip(f"the sources cannot be downloaded here: {error}")
    source = demo.read_source(tmp_path)
    for split, spec in SPLITS:
        shards = open_shards(spec, verify=False)
        icons = demo.list_icons(source, split)
        places = [(shard, i) for shard in shards for i in range(shard.samples)]
        assert len(icons) == len(places)
        for k in itertools.islice(range(len(icons)), 0, None, 40):
            (made,), committed = demo.make_samples(source, [icons[k]]), read_sample(*places[k])
            assert committed["__key__"] == made["__key__"]
            assert int(committed["cls"]) == made["cls"]
            assert json.loads(committed["json"]) == made["json"]
            assert committed["png"] == made["png"]
