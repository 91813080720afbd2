"""scripts/make_shards.py: folders of images become shards; what is wrong is said in one line."""

import io
import json
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from webdataset.compat import WebDataset

from data.config import MEASURED
from data.dataset import ShardImages
from data.making.listing import find_entries
from data.shards.index import statistics
from data.shards.reading import open_shards, read_sample
from data.shards.samples import ShardSamples
from data.shards.scanning import index_shard
from data.transforms import Crop
from scripts.make_shards import main
from tests.support.images import FORMATS, make_image, write_images
from tests.support.programs import run, start, wait_for

# webdataset closes its files only when they are collected
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def make(*arguments: object) -> subprocess.CompletedProcess[str]:
    workers = () if "--workers" in arguments else ("--workers", "1")  # others take time to start
    return run("scripts/make_shards.py", *arguments, *workers)


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
    done = make(labelled, out, "--shard-size", 8)
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
        assert make(labelled, tmp_path / out, "--seed", seed).returncode == 0
    one, two, other = (tmp_path / out / "train-000000.tar" for out in "abc")
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes() != other.read_bytes()
    first = {sample["cls"] for sample in samples_in(str(one))[:15]}
    assert len(first) == 3


def test_a_second_folder_keeps_to_the_labels_of_the_first(labelled, tmp_path):
    out = tmp_path / "out"
    assert make(labelled, out).returncode == 0
    make_image(tmp_path / "val" / "zebra" / "1.png", seed=1)
    assert make(tmp_path / "val", out, "--prefix", "test").returncode == 0
    assert [sample["cls"] for sample in samples_in(f"{out}/test-000000.tar")] == [b"2"]
    make_image(tmp_path / "val" / "yak" / "1.png", seed=2)
    done = make(tmp_path / "val", out, "--prefix", "val")
    assert_fails(done, "'yak' is no class of")


def test_flat_folder_becomes_unlabelled_shards(tmp_path):
    for i in range(5):
        make_image(tmp_path / "flat" / f"{i}.png", seed=i)
    (tmp_path / "flat" / "4.png").rename(tmp_path / "flat" / "4")
    (tmp_path / "flat" / "notes.txt").write_text("text")
    Image.new("RGB", (900, 60)).save(tmp_path / "flat" / "3.png")
    done = make(tmp_path / "flat", tmp_path / "out", "--compress")
    assert done.returncode == 0, done.stderr
    assert "5 images in 1 shards, 1 skipped" in done.stdout
    assert "\nmedian aspect 1.20, longer over shorter side\n1 of 5 images have an" in done.stdout
    samples = samples_in(f"{tmp_path}/out/train-000000.tar.gz")
    assert [sorted(sample) for sample in samples] == [["__key__", "png"]] * 5
    assert not (tmp_path / "out" / "classes.json").exists()


def test_broken_image_is_skipped_and_named_up_to_the_stated_share(labelled, tmp_path):
    whole = (labelled / "ant" / "no.1.jpg").read_bytes()
    (labelled / "ant" / "no.1.jpg").write_bytes(whole[: len(whole) // 2])
    done = make(labelled, tmp_path / "out", "--max-broken", 0.1)
    assert done.returncode == 0, done.stderr
    assert f"skipped {labelled / 'ant' / 'no.1.jpg'}: " in done.stderr
    assert "29 images in 1 shards, 3 skipped" in done.stdout
    for line in (
        "skipped 1 .jpg: cannot be decoded as an image",
        "skipped 1 .png: hidden",
        "skipped 1 .txt: no image",
    ):
        assert f"  {line}\n" in done.stdout
    done = make(labelled, tmp_path / "strict")
    assert_fails(done, "1 of 30 images cannot be decoded, more than the share --max-broken 0.01")
    assert list((tmp_path / "strict").glob("*.tar")) == []


@pytest.mark.slow
def test_too_many_broken_images_leave_nothing_of_any_worker(tmp_path):
    for i, path in enumerate(write_images(tmp_path / "in", 60)):
        if i % 3 == 0:
            path.write_bytes(b"no image")
    done = make(tmp_path / "in", tmp_path / "out", "--shard-size", 4, "--workers", 2)
    assert_fails(done, "images cannot be decoded, more than the share --max-broken 0.01")
    assert list((tmp_path / "out").iterdir()) == []


def test_wrong_folders_are_refused_in_one_line(labelled, tmp_path):
    assert_fails(make(tmp_path / "nowhere", tmp_path / "out"), "nowhere does not exist")
    (tmp_path / "empty").mkdir()
    assert_fails(make(tmp_path / "empty", tmp_path / "out"), "empty holds no images")
    make_image(labelled / "loose.png", seed=1)
    assert_fails(make(labelled, tmp_path / "out"), "holds 1 images itself and 30 in sub-folders")
    (labelled / "loose.png").unlink()
    assert not (tmp_path / "out").exists()
    make_image(labelled / "ant" / "no_1.png", seed=1)
    assert_fails(make(labelled, tmp_path / "out"), "would both have the key 'ant/no_1'")


def test_existing_shards_are_not_replaced(labelled, tmp_path):
    assert make(labelled, tmp_path / "out").returncode == 0
    assert_fails(make(labelled, tmp_path / "out", "--seed", 1), "train-000000.tar exists")
    assert_fails(
        make(labelled, tmp_path / "o", "--shard-size", 0), "shard_size=0 must be at least 1"
    )
    assert_fails(
        make(labelled, tmp_path / "o", "--max-broken", 7), "max_broken=7.0 must lie in [0, 1)"
    )


def test_help_documents_every_flag():
    done = make("--help")
    assert done.returncode == 0
    for flag in ("--shard-size", "--prefix", "--seed", "--compress", "--max-broken", "OUT_DIR"):
        assert flag in done.stdout


def test_image_bytes_still_decode(labelled, tmp_path):
    assert make(labelled, tmp_path / "out").returncode == 0
    for sample in samples_in(f"{tmp_path}/out/train-000000.tar"):
        encoded = sample["png"] if "png" in sample else sample["jpg"]
        assert Image.open(io.BytesIO(encoded)).size == (10, 12)


def shard_bytes(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*.tar"))}


@pytest.mark.slow
def test_any_number_of_workers_makes_the_same_bytes(labelled, tmp_path):
    for workers in (1, 2):
        done = make(labelled, tmp_path / str(workers), "--shard-size", 7, "--workers", workers)
        assert done.returncode == 0, done.stderr
    assert shard_bytes(tmp_path / "1") == shard_bytes(tmp_path / "2")
    indexes = [(tmp_path / name / "index.json").read_bytes() for name in "12"]
    assert indexes[0] == indexes[1]


@pytest.mark.slow
@pytest.mark.dist
def test_a_killed_run_goes_on_with_the_shards_that_are_missing(tmp_path):
    root = tmp_path / "many"
    root.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    for i in range(30):
        Image.fromarray(np.roll(pixels, i, 0)).save(root / f"{i}.png", compress_level=1)
    command = ["scripts/make_shards.py", root, "--shard-size", "2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(*command, whole, "--workers", 1).returncode == 0
    child = start(*command, killed)
    wait_for(lambda: bool(shard_bytes(killed)), child)
    child.send_signal(signal.SIGKILL)  # the parent alone: its workers have to notice
    child.wait()
    kept = {path: path.stat().st_mtime_ns for path in killed.glob("*.tar")}
    assert len(kept) < 15
    assert_fails(run(*command, killed, "--quality", "80"), "quality: 92 -> 80")
    assert run(*command, killed, "--workers", 1).returncode == 0
    assert shard_bytes(killed) == shard_bytes(whole)
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in kept.items())
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_gives_paths_labels_and_metadata(kind, tmp_path):
    write_images(tmp_path, 4)
    rows: list[dict[str, Any]] = [
        {"file": f"image{i}.png", "animal": "ox" if i % 2 else "ant", "place": f"p{i}"}
        for i in range(4)
    ]
    table = tmp_path / f"images.{kind}"
    if kind == "csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        table.write_text("\n".join(lines))
    elif kind == "jsonl":
        table.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    done = make(
        table, tmp_path / "o", "--path-column", "file", "--label-column", "animal", "--workers", 1
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "o" / "classes.json").read_text()) == ["ant", "ox"]
    samples = {sample["__key__"]: sample for sample in samples_in(f"{tmp_path}/o/train-000000.tar")}
    assert samples["image3"]["cls"] == b"1"
    assert json.loads(samples["image3"]["json"]) == {"place": "p3"}


def test_one_call_makes_train_val_and_test_and_prints_the_flags_that_name_them(labelled, tmp_path):
    out = tmp_path / "o"
    done = make(
        labelled, out, "--val", 0.1, "--test", 0.2, "--split", "stratified", "--shard-size", 12
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-5:-2] == [
        f"  train: 21 images, --data.train '{out}/train-{{000000..000001}}.tar'",
        f"  val: 3 images, --data.test {out}/val-000000.tar",
        f"  test: 6 images, --data.test {out}/test-000000.tar",
    ]
    assert len(samples_in(f"{out}/train-{{000000..000001}}.tar")) == 21
    assert Counter(s["cls"] for s in samples_in(f"{out}/test-000000.tar")) == {
        b"0": 2,
        b"1": 2,
        b"2": 2,
    }
    failed = make(labelled, tmp_path / "p", "--val", 0.5, "--test", 0.5)
    assert_fails(failed, "--val 0.5 and --test 0.5 leave nothing to train on")


def test_folders_of_splits_become_shards_of_their_names_and_numbered_ones_keep_their_value(
    tmp_path,
):
    for split, count in (("train", 12), ("val", 11)):
        for c in range(count):
            make_image(tmp_path / "in" / split / str(c) / f"{c}.png", seed=c)
    done = make(tmp_path / "in", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/in: taken as splits, not as classes: train, val\n" in done.stdout
    for split, count in (("train", 12), ("val", 11)):
        samples = samples_in(f"{tmp_path}/o/{split}-000000.tar")
        labels = {sample["__key__"]: sample["cls"] for sample in samples}
        assert labels == {f"{split}/{c}/{c}": str(c).encode() for c in range(count)}
    assert not (tmp_path / "o" / "classes.json").exists()


def test_integer_labels_of_a_table_stay(tmp_path):
    write_images(tmp_path, 2)
    (tmp_path / "t.csv").write_text("path,label\nimage0.png,7\nimage1.png,3\n")
    assert make(tmp_path / "t.csv", tmp_path / "o").returncode == 0
    labels = {
        sample["__key__"]: sample["cls"] for sample in samples_in(f"{tmp_path}/o/train-000000.tar")
    }
    assert labels == {"image0": b"7", "image1": b"3"}
    assert not (tmp_path / "o" / "classes.json").exists()


def test_a_label_column_that_is_not_there_is_refused(tmp_path):
    write_images(tmp_path, 1)
    (tmp_path / "t.csv").write_text("path,grade\nimage0.png,1\n")
    done = make(tmp_path / "t.csv", tmp_path / "o", "--label-column", "diagnosis")
    assert_fails(done, "t.csv has no column 'diagnosis'; its columns are path, grade: name the one")
    (entry,) = find_entries(tmp_path / "t.csv", "path", None).entries
    assert entry.label is None


@pytest.mark.slow
def test_a_split_writes_two_sets_of_shards(labelled, tmp_path):
    done = make(labelled, tmp_path / "o", "--val", 0.2, "--split", "stratified")
    assert done.returncode == 0, done.stderr
    train, val = (samples_in(f"{tmp_path}/o/{name}-000000.tar") for name in ("train", "val"))
    assert Counter(sample["cls"] for sample in val) == {b"0": 2, b"1": 2, b"2": 2}
    assert not {s["__key__"] for s in train} & {s["__key__"] for s in val}
    (tmp_path / "flat").mkdir()
    write_images(tmp_path / "flat", 3)
    failed = make(tmp_path / "flat", tmp_path / "p", "--val", 0.5, "--split", "stratified")
    assert_fails(failed, "--split stratified needs labels")
    assert_fails(make(labelled, tmp_path / "q", "--val", 0.5, "--prefix", "val"), "--prefix val is")


def test_patients_stay_on_one_side_and_equal_images_on_both_are_named(tmp_path):
    paths = write_images(tmp_path, 30)
    paths[29].write_bytes(paths[0].read_bytes())
    rows = "".join(f"image{i}.png,{i % 2},p{i // 3}\n" for i in range(30))
    (tmp_path / "t.csv").write_text(f"path,label,patient\n{rows}")
    split = ("--val", 0.3, "--group", "patient", "--split", "stratified")
    done = make(tmp_path / "t.csv", tmp_path / "o", *split)
    assert done.returncode == 0, done.stderr
    sides = [
        {json.loads(s["json"])["patient"] for s in samples_in(f"{tmp_path}/o/{name}-000000.tar")}
        for name in ("train", "val")
    ]
    assert len(sides[0]) + len(sides[1]) == len(sides[0] | sides[1]) == 10
    assert ("p0" in sides[0]) != ("p9" in sides[0])
    assert "warning: 1 images are in more than one of train and val, byte for byte: " in done.stdout
    assert f"{paths[29]} = {paths[0]}; remove all but one of each" in done.stdout


def test_statistics_are_those_of_all_pixels(tmp_path):
    paths = write_images(tmp_path / "in", 5)
    assert make(tmp_path / "in", tmp_path / "o", "--shard-size", 2).returncode == 0
    pixels = np.concatenate([np.asarray(Image.open(path)).reshape(-1, 3) for path in paths]) / 255
    shards = open_shards(f"{tmp_path}/o/train-{{000000..000002}}.tar")
    mean, std = statistics(shards)
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, pixels.std(0), rtol=1e-6)
    with pytest.raises(ValueError, match=r"000000\.tar has no statistics; run fcmae shards"):
        statistics([index_shard(Path(shards[0].url))])


def test_satellite_tiles_of_13_bands_are_taken(tmp_path):
    (tmp_path / "in").mkdir()
    tiles = np.random.default_rng(0).integers(0, 65536, (3, 16, 12, 13)).astype(np.uint16)
    for i in range(2):
        tifffile.imwrite(
            tmp_path / "in" / f"{i}.tif", tiles[i], photometric="minisblack", planarconfig="contig"
        )
    np.save(tmp_path / "in" / "2.npy", tiles[2])
    done = make(tmp_path / "in", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    shards = open_shards(f"{tmp_path}/o/train-000000.tar")
    np.testing.assert_allclose(statistics(shards)[0], tiles.mean((0, 1, 2)) / 65535, rtol=1e-6)
    images = ShardImages(
        ShardSamples(shards),
        size=(8, 8),
        in_chans=13,
        pixels=MEASURED,
        crop=Crop((0.5, 1.0), True),
    )
    assert {images[(0, i)]["image"].shape for i in range(3)} == {(13, 8, 8)}
    assert images[(0, 0)]["whole"]


def test_large_images_are_shrunk_and_encoded_again_and_others_copied(tmp_path):
    (tmp_path / "in").mkdir()
    large = np.random.default_rng(0).integers(0, 256, (90, 60, 3), dtype=np.uint8)
    Image.fromarray(large).save(tmp_path / "in" / "large.png")
    Image.fromarray(large[..., 0].astype(np.uint16) * 99).save(tmp_path / "in" / "deep.png")
    make_image(tmp_path / "in" / "small.png", 0)
    done = make(tmp_path / "in", tmp_path / "o", "--max-side", 45, "--in-chans", 3)
    assert done.returncode == 0, done.stderr
    samples = {sample["__key__"]: sample for sample in samples_in(f"{tmp_path}/o/train-000000.tar")}
    assert Image.open(io.BytesIO(samples["large"]["jpg"])).size == (30, 45)
    for name in ("deep", "small"):
        assert samples[name]["png"] == (tmp_path / "in" / f"{name}.png").read_bytes()


@pytest.mark.slow
def test_a_ray_cluster_of_two_workers_makes_the_same_bytes(labelled, tmp_path):
    pytest.importorskip("ray")
    common = ("--shard-size", 7, "--workers", 2)
    assert make(labelled, tmp_path / "pool", *common).returncode == 0
    done = make(labelled, tmp_path / "ray", *common, "--engine", "ray")
    assert done.returncode == 0, done.stderr
    assert shard_bytes(tmp_path / "ray") == shard_bytes(tmp_path / "pool")
    indexes = [(tmp_path / name / "index.json").read_bytes() for name in ("ray", "pool")]
    assert indexes[0] == indexes[1]


@pytest.mark.slow
def test_an_error_on_a_ray_cluster_is_one_line_and_too_many_broken_leave_nothing(tmp_path):
    pytest.importorskip("ray")
    for i, path in enumerate(write_images(tmp_path / "in", 12)):
        if i % 4 == 0:
            path.write_bytes(b"no image")
    common = ("--workers", 2, "--engine", "ray", "--in-chans", 3)
    done = make(tmp_path / "in", tmp_path / "a", "--shard-size", 1, "--max-broken", 0.9, *common)
    assert_fails(done, "none of the 1 images of")
    assert "none of the 1 images of" in done.stderr.splitlines()[-1]
    done = make(tmp_path / "in", tmp_path / "b", "--shard-size", 4, *common)
    assert_fails(done, "images cannot be decoded, more than the share")
    assert list((tmp_path / "b").iterdir()) == []


def files_in(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_finished_command_is_repeated_without_a_write(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = [str(labelled), str(out), "--shard-size", "4", "--val", "0.2", "--workers", "1"]
    main(command)
    first = capsys.readouterr().out
    before = files_in(out)
    main(command)
    again = capsys.readouterr().out
    assert f"all shards are there already, of the same images and options: {out}\n" in again
    assert again.endswith(first[first.index("  train: ") : first.index("median aspect")])
    left = out / ".train.plan" / "cells"
    left.mkdir(parents=True)  # by a kill after all was done
    main([*command[:-1], "2", "--max-broken", "0.5"])
    assert files_in(out) == before
    assert not left.parent.exists()


@pytest.mark.parametrize(
    ("flags", "change", "why"),
    [
        (["--seed", "1"], None, "seed: 0 -> 1"),
        (["--max-side", "9"], None, "max_side: None -> 9"),
        ([], lambda source, _: make_image(source / "ant" / "new.png", seed=9), "images: 30 -> 31"),
        ([], lambda source, _: next(source.rglob("no.1.*")).unlink(), "images: 30 -> 29"),
        ([], lambda _, out: next(out.glob("train-*")).unlink(), "is not that of the index"),
        ([], lambda _, out: (out / "index.json").unlink(), "; delete"),
    ],
)
def test_shards_that_were_made_otherwise_are_kept_and_refused(
    flags: list[str],
    change: Callable[[Path, Path], object] | None,
    why: str,
    labelled: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    command = [str(labelled), str(out), "--shard-size", "20", "--workers", "1"]
    main(command)
    if change is not None:
        change(labelled, out)
    before = files_in(out)
    with pytest.raises(FileExistsError, match=f"exists and shards are never overwritten.*{why}"):
        main([*command, *flags])
    assert files_in(out) == before


def test_other_images_of_the_same_names_and_sizes_are_refused(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        for i in range(4):
            make_image(tmp_path / name / "cat" / f"{i}.png", seed=10 * seed + i)
    main([str(tmp_path / "a"), str(tmp_path / "out"), "--workers", "1"])
    with pytest.raises(FileExistsError, match=r"made otherwise \(images have other"):
        main([str(tmp_path / "b"), str(tmp_path / "out"), "--workers", "1"])
