"""scripts/make_shards.py: folders of images become shards; what is wrong is said in one line."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from webdataset.compat import WebDataset

from data.shards import open_shards, read_sample

# webdataset closes its files only when they are collected
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

ROOT = Path(__file__).parents[1]
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".JPEG": "JPEG"}


def make_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format=FORMATS[path.suffix])


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "scripts/make_shards.py", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def samples_in(spec: str) -> list[dict]:
    return [read_sample(shard, i) for shard in open_shards(spec) for i in range(shard.samples)]


def assert_fails(done: subprocess.CompletedProcess, message: str) -> None:
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Three classes with ten images each, in png and jpg, some deeper and with dots in names."""
    folder = tmp_path / "images"
    for c, name in enumerate(("zebra", "ant", "lynx v1.0")):
        for i in range(10):
            inner = "deep.er/" if i % 4 == 0 else ""
            suffix = list(FORMATS)[i % 3]
            make_image(folder / name / f"{inner}no.{i}{suffix}", seed=100 * c + i)
    (folder / "notes.txt").write_text("not an image")
    make_image(folder / "ant" / "._hidden.png", seed=0)
    return folder


def test_labelled_folder_becomes_shards_with_the_original_bytes(labelled, tmp_path):
    out = tmp_path / "out"
    done = run(labelled, out, "--shard-size", 8)
    assert done.returncode == 0, done.stderr
    classes = json.loads((out / "classes.json").read_text())
    assert classes == ["ant", "lynx v1.0", "zebra"]
    samples = samples_in(f"{out}/train-{{000000..000003}}.tar")
    assert len({sample["__key__"] for sample in samples}) == 30
    originals = {
        (path.relative_to(labelled).parts[0], path.read_bytes()) for path in labelled.rglob("no.*")
    }
    assert originals == {
        (classes[int(sample["cls"])], sample["png" if "png" in sample else "jpg"])
        for sample in samples
    }
    shards = [str(path) for path in sorted(out.glob("*.tar"))]
    plain: Any = WebDataset(shards, shardshuffle=False).decode("pil")
    assert [sample["__key__"] for sample in plain] == [sample["__key__"] for sample in samples]


def test_order_mixes_classes_and_depends_on_the_seed_alone(labelled, tmp_path):
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(labelled, tmp_path / out, "--seed", seed).returncode == 0
    one, two, other = (tmp_path / out / "train-000000.tar" for out in "abc")
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes() != other.read_bytes()
    first = {sample["cls"] for sample in samples_in(str(one))[:15]}
    assert len(first) == 3


def test_a_second_folder_keeps_to_the_labels_of_the_first(labelled, tmp_path):
    out = tmp_path / "out"
    assert run(labelled, out).returncode == 0
    make_image(tmp_path / "val" / "zebra" / "1.png", seed=1)
    assert run(tmp_path / "val", out, "--prefix", "test").returncode == 0
    assert [sample["cls"] for sample in samples_in(f"{out}/test-000000.tar")] == [b"2"]
    make_image(tmp_path / "val" / "yak" / "1.png", seed=2)
    done = run(tmp_path / "val", out, "--prefix", "val")
    assert_fails(done, "sub-folder 'yak' is no class of")


def test_flat_folder_becomes_unlabelled_shards(tmp_path):
    for i in range(5):
        make_image(tmp_path / "flat" / f"{i}.png", seed=i)
    done = run(tmp_path / "flat", tmp_path / "out", "--compress")
    assert done.returncode == 0, done.stderr
    samples = samples_in(f"{tmp_path}/out/train-000000.tar.gz")
    assert [sorted(sample) for sample in samples] == [["__key__", "png"]] * 5
    assert not (tmp_path / "out" / "classes.json").exists()


def test_broken_image_is_skipped_and_named_up_to_the_stated_share(labelled, tmp_path):
    whole = (labelled / "ant" / "no.1.jpg").read_bytes()
    (labelled / "ant" / "no.1.jpg").write_bytes(whole[: len(whole) // 2])
    done = run(labelled, tmp_path / "out", "--max-broken", 0.1)
    assert done.returncode == 0, done.stderr
    assert f"skipped {labelled / 'ant' / 'no.1.jpg'}: " in done.stderr
    assert "29 images in 1 shards, 1 skipped" in done.stdout
    done = run(labelled, tmp_path / "strict")
    assert_fails(done, "1 of 30 images cannot be decoded, more than the share --max-broken 0.01")
    assert list((tmp_path / "strict").glob("*.tar")) == []


def test_wrong_folders_are_refused_in_one_line(labelled, tmp_path):
    assert_fails(run(tmp_path / "nowhere", tmp_path / "out"), "nowhere is no folder")
    (tmp_path / "empty").mkdir()
    assert_fails(run(tmp_path / "empty", tmp_path / "out"), "empty holds no images")
    make_image(labelled / "loose.png", seed=1)
    assert_fails(run(labelled, tmp_path / "out"), "holds 1 images itself and 30 in sub-folders")
    (labelled / "loose.png").unlink()
    assert not (tmp_path / "out").exists()
    make_image(labelled / "ant" / "no_1.png", seed=1)
    assert_fails(run(labelled, tmp_path / "out"), "would both have the key 'ant/no_1'")


def test_existing_shards_are_not_replaced(labelled, tmp_path):
    assert run(labelled, tmp_path / "out").returncode == 0
    assert_fails(run(labelled, tmp_path / "out"), "train-000000.tar exists")
    assert_fails(run(labelled, tmp_path / "o", "--shard-size", 0), "shard_size=0 must be at least")
    assert_fails(run(labelled, tmp_path / "o", "--max-broken", 7), "--max-broken 7.0 must be")


def test_help_documents_every_flag():
    done = run("--help")
    assert done.returncode == 0
    for flag in ("--shard-size", "--prefix", "--seed", "--compress", "--max-broken", "OUT_DIR"):
        assert flag in done.stdout


def test_image_bytes_still_decode(labelled, tmp_path):
    assert run(labelled, tmp_path / "out").returncode == 0
    for sample in samples_in(f"{tmp_path}/out/train-000000.tar"):
        encoded = sample["png"] if "png" in sample else sample["jpg"]
        assert Image.open(io.BytesIO(encoded)).size == (10, 12)
