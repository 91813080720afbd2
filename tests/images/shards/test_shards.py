"""Tar shards: what is written is read back, by us and by plain webdataset; damage is named."""

import hashlib
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from webdataset.compat import WebDataset

from data.shards.index import INDEX
from data.shards.members import split_name
from data.shards.reading import open_shards, read_sample
from data.shards.scanning import index_shard
from data.shards.writing import write_shards
from tests.support.programs import kill, lines_of, run, start, wait_for

# webdataset closes its files only when they are collected
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (shade, 10, 200)).save(file, format="PNG")
    return file.getvalue()


def samples(count: int, style: str = "a"):
    return [
        {"__key__": f"{style}/{i:03d}", "png": picture(i), "cls": i % 3, "json": {"group": i // 2}}
        for i in range(count)
    ]


def write_tar(path: Path, members: dict[str, bytes], **options) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def read_plainly(path: Path) -> list[dict]:
    dataset: Any = WebDataset(str(path), shardshuffle=False, empty_check=False)
    return [{k: v for k, v in s.items() if k[:2] != "__" or k == "__key__"} for s in dataset]


@pytest.mark.parametrize("compress", [False, True])
def test_samples_come_back_in_order_and_plain_webdataset_reads_the_same(tmp_path, compress):
    written = write_shards(samples(7), tmp_path, "train", 3, compress)
    end = ".tar.gz" if compress else ".tar"
    assert [shard.name for shard in written] == [f"train-{i:06d}{end}" for i in range(3)]
    assert [shard.samples for shard in written] == [3, 3, 1]
    opened = open_shards(f"{tmp_path}/train-{{000000..000002}}{end}")
    assert opened == written
    ours = [read_sample(shard, i) for shard in opened for i in range(shard.samples)]
    assert ours == [sample for shard in opened for sample in read_plainly(Path(shard.url))]
    for got, given in zip(ours, samples(7), strict=True):
        assert got["__key__"] == given["__key__"]
        assert got["png"] == given["png"]
        assert int(got["cls"]) == given["cls"]
        assert json.loads(got["json"]) == given["json"]


def test_offsets_are_those_of_a_scan_and_lead_to_tar_headers(tmp_path):
    (shard,) = write_shards(samples(5), tmp_path, "train", 5)
    assert index_shard(Path(shard.url)) == shard
    content = Path(shard.url).read_bytes()
    for i, offset in enumerate(shard.offsets[:-1]):
        assert content[offset:].startswith(f"a/{i:03d}.cls\0".encode())
    assert not any(content[shard.offsets[-1] :])


@pytest.mark.parametrize("compress", [False, True])
def test_equal_samples_make_equal_bytes(tmp_path, compress):
    for name in ("one", "two"):
        write_shards(samples(5), tmp_path / name, "train", 2, compress)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 4
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_long_and_non_ascii_keys_survive(tmp_path):
    keys = ["ä/日本", "x/" + "long" * 80]
    (shard,) = write_shards(({"__key__": key, "jpg": b"1"} for key in keys), tmp_path, "train", 9)
    assert [read_sample(shard, i)["__key__"] for i in range(2)] == keys
    assert [sample["__key__"] for sample in read_plainly(Path(shard.url))] == keys
    assert index_shard(Path(shard.url)) == shard


def test_index_keeps_the_entries_of_other_prefixes(tmp_path):
    write_shards(samples(2), tmp_path, "train", 2)
    write_shards(samples(2), tmp_path, "test", 2)
    index = json.loads((tmp_path / INDEX).read_text())
    assert sorted(index["shards"]) == ["test-000000.tar", "train-000000.tar"]
    entry = index["shards"]["test-000000.tar"]
    content = (tmp_path / "test-000000.tar").read_bytes()
    assert entry["size"] == len(content)
    assert entry["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_tar_made_by_others_is_scanned_like_webdataset_reads_it(tmp_path):
    path = write_tar(
        tmp_path / "theirs.tar",
        {
            "README": b"no suffix: no sample",
            "__meta__/about.json": b"{}",
            "d.v1/a.PNG": b"a",
            "d.v1/a.seg.png": b"mask",
            "d.v1/b.png": b"b",
            "notes": b"between",
            "c.jpg": b"c",
        },
        format=tarfile.GNU_FORMAT,
    )
    (shard,) = open_shards(str(path))
    ours = [read_sample(shard, i) for i in range(shard.samples)]
    assert ours == read_plainly(path)
    assert ours == [
        {"__key__": "d.v1/a", "png": b"a", "seg.png": b"mask"},
        {"__key__": "d.v1/b", "png": b"b"},
        {"__key__": "c", "jpg": b"c"},
    ]


def test_hidden_files_belong_to_no_sample():
    assert split_name("d/._photo.png") is None
    assert split_name("d/photo.png") == ("d/photo", "png")


def test_index_of_others_shards_is_written_by_the_command(tmp_path):
    path = write_tar(tmp_path / "theirs.tar", {"a.png": b"1", "b.png": b"2"})
    done = run("-m", "data.shards", "index", path)
    assert done.returncode == 0, done.stderr
    assert f"{path}: 2 samples" in done.stdout
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(ValueError, match=r"theirs\.tar has \d+ bytes, index\.json says \d+"):
        open_shards(str(path))
    failed = run("-m", "data.shards", "index", path, "nowhere.tar")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert len(lines_of(failed.stderr)) == 1


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("verify", [False, True])
def test_truncated_shard_is_refused_even_without_hashing(tmp_path, compress, verify):
    (shard,) = write_shards(samples(4), tmp_path, "train", 4, compress)
    Path(shard.url).write_bytes(Path(shard.url).read_bytes()[: shard.offsets[3] + 20])
    with pytest.raises(ValueError, match=rf"{shard.name} has \d+ bytes, index.json says"):
        open_shards(shard.url, verify=verify)


@pytest.mark.parametrize("compress", [False, True])
def test_one_flipped_bit_is_found_by_the_hash(tmp_path, compress):
    (shard,) = write_shards(samples(4), tmp_path, "train", 4, compress)
    content = bytearray(Path(shard.url).read_bytes())
    content[len(content) // 2] ^= 1
    Path(shard.url).write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    message = f"{shard.url} has SHA-256 {found}, index.json says {shard.sha256}"
    with pytest.raises(ValueError, match=re.escape(message)):
        open_shards(shard.url)
    assert open_shards(shard.url, verify=False) == [shard]


@pytest.mark.parametrize("keep", ["half a header", "half a sample", "whole samples"])
def test_truncated_shard_without_index_is_found_by_the_scan(tmp_path, keep):
    (shard,) = write_shards(samples(4), tmp_path, "train", 4)
    (tmp_path / INDEX).unlink()
    cut = {"half a header": 100, "half a sample": 600, "whole samples": 0}[keep]
    Path(shard.url).write_bytes(Path(shard.url).read_bytes()[: shard.offsets[2] + cut])
    with pytest.raises(ValueError, match=r"train-000000\.tar is truncated"):
        open_shards(shard.url)


def test_damaged_header_without_index_is_found_by_the_scan(tmp_path):
    (shard,) = write_shards(samples(4), tmp_path, "train", 4)
    (tmp_path / INDEX).unlink()
    content = bytearray(Path(shard.url).read_bytes())
    content[shard.offsets[2] + 3] ^= 1
    Path(shard.url).write_bytes(content)
    with pytest.raises(ValueError, match=rf"byte {shard.offsets[2]} begins neither a tar header"):
        open_shards(shard.url)


@pytest.mark.parametrize("compress", [False, True])
def test_a_shard_that_changes_while_it_is_read_is_named(tmp_path, compress):
    (shard,) = write_shards(samples(4), tmp_path, "train", 4, compress)
    content = Path(shard.url).read_bytes()
    Path(shard.url).write_bytes(bytes(len(content)))
    with pytest.raises(ValueError, match=r"train-000000\.tar.*are not sample 1 .*changed since"):
        read_sample(shard, 1)
    Path(shard.url).write_bytes(content[: shard.offsets[2]])
    assert read_sample(shard, 1)["__key__"] == "a/001"
    with pytest.raises(ValueError, match=r"are not sample 2 \(the file ends before them\)"):
        read_sample(shard, 2)
    with pytest.raises(IndexError, match="it holds samples 0 to 3"):
        read_sample(shard, 4)


def test_what_is_no_shard_is_refused(tmp_path):
    text = tmp_path / "text.tar"
    text.write_text("not a tar" * 200)
    with pytest.raises(ValueError, match=r"text\.tar is truncated, damaged or no uncompressed tar"):
        open_shards(str(text))
    zipped = tmp_path / "theirs.tar.gz"
    with tarfile.open(zipped, "w:gz") as tar:
        tar.add(text, "a.png")
    with pytest.raises(ValueError, match=r"theirs\.tar\.gz is no plain tar but .*gunzip"):
        open_shards(str(zipped))
    page = tmp_path / "page.tar"
    page.write_text("<!doctype html><title>Sign in</title>" * 40)
    with pytest.raises(ValueError, match=r"page\.tar is no plain tar but a page of HTML"):
        open_shards(str(page))
    empty = write_tar(tmp_path / "empty.tar", {"README": b""})
    with pytest.raises(ValueError, match=r"empty\.tar holds no samples"):
        open_shards(str(empty))
    twice = write_tar(tmp_path / "twice.tar", {"a.png": b"1", "a.PNG": b"2"})
    with pytest.raises(ValueError, match=r"sample 'a' has two members 'png'"):
        open_shards(str(twice))


def test_bad_specs_are_refused(tmp_path):
    (shard,) = write_shards(samples(2), tmp_path, "train", 2)
    for nothing in ("", []):
        with pytest.raises(ValueError, match="names no shard"):
            open_shards(nothing)
    with pytest.raises(ValueError, match="is named twice"):
        open_shards([shard.url, f"{tmp_path}/../{tmp_path.name}/train-000000.tar"])
    with pytest.raises(ValueError, match=r"is a directory; name its shards"):
        open_shards(str(tmp_path))
    entry = '{"shards": {"train-000000.tar": %s}}'
    for damaged in ("[]", entry % "[]", entry % "{}", entry % '{"size": 1, "sha256": "a"}'):
        (tmp_path / INDEX).write_text(damaged)
        with pytest.raises(ValueError, match=r"index\.json is no index of shards"):
            open_shards(shard.url)
    (tmp_path / INDEX).write_text("\n<html>Not found</html>")
    with pytest.raises(ValueError, match=r"index\.json is a page of HTML and no index"):
        open_shards(shard.url)


def test_bad_samples_are_refused_and_nothing_is_left(tmp_path):
    bad = {
        "would not survive webdataset": [{"__key__": "a.b", "png": b""}],
        "two neighbouring samples have the key 'a'": [{"__key__": "a", "png": b""}] * 2,
        "no samples to write": [],
    }
    for message, given in bad.items():
        with pytest.raises(ValueError, match=message):
            write_shards(given, tmp_path, "train", 1)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="shard_size=0 must be at least 1"):
        write_shards(samples(2), tmp_path, "train", 0)


def test_shards_are_never_overwritten(tmp_path):
    write_shards(samples(2), tmp_path, "train", 2)
    before = (tmp_path / "train-000000.tar").read_bytes()
    with pytest.raises(FileExistsError, match=r"train-000000\.tar exists .* choose another"):
        write_shards(samples(3), tmp_path, "train", 2)
    assert (tmp_path / "train-000000.tar").read_bytes() == before


def test_a_killed_writer_leaves_no_shard_with_a_final_name(tmp_path):
    code = """
import itertools, sys, time
from pathlib import Path
from typing import Any
from data.shards.writing import write_shards
def slow():
    for i in itertools.count():
        yield {"__key__": f"{i}", "png": bytes(5000)}
        time.sleep(0.001)
write_shards(slow(), Path(sys.argv[1]), "train", 10)
"""
    writer = start("-c", code, tmp_path)
    # three shards are written and a fourth is begun
    wait_for(lambda: len(list(tmp_path.rglob("*.tar*"))) == 4, writer)
    kill(writer)
    assert list(tmp_path.glob("*.tar")) == []
    assert not (tmp_path / INDEX).exists()
    assert len(write_shards(samples(4), tmp_path, "train", 2)) == 2
