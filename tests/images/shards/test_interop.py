"""Our shards read by the libraries that people have."""

import io
from pathlib import Path
from typing import Any

import pytest
from webdataset.compat import WebDataset
from webdataset.writer import TarWriter

from data.shards.reading import open_shards, read_sample
from data.shards.writing import tar_blocks, write_shards
from tests.support.images import png

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture
def ours(tmp_path: Path) -> list[dict[str, Any]]:
    samples = (
        {"__key__": f"s{i}", "png": png(i), "cls": i, "json": {"place": f"p{i}"}} for i in range(5)
    )
    shards = write_shards(samples, tmp_path, "train", 3)
    return [read_sample(shard, i) for shard in shards for i in range(shard.samples)]


def test_webdataset_reads_our_shards(ours, tmp_path):
    shards = [shard.url for shard in open_shards(f"{tmp_path}/train-{{000000..000001}}.tar")]
    theirs: Any = WebDataset(shards, shardshuffle=False)
    theirs = [{k: v for k, v in sample.items() if k in ours[0]} for sample in theirs]
    assert theirs == ours


def test_datasets_reads_our_shards(ours, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    files = [f"{tmp_path}/train-00000{i}.tar" for i in range(2)]
    read = datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True)
    theirs = list(read)
    assert [row["__key__"] for row in theirs] == [sample["__key__"] for sample in ours]
    assert [row["cls"] for row in theirs] == list(range(5))
    assert [row["json"]["place"] for row in theirs] == [f"p{i}" for i in range(5)]
    assert {row["png"].size for row in theirs} == {(48, 40)}


@pytest.mark.parametrize(
    "sample",
    [
        {"__key__": "folder/image", "png": b"x" * 900, "cls": 7},
        {
            "__key__": "ä/" + 200 * "long",
            "seg.png": b"",
            "jpg": b"x" * 512,
            "json": {"a": [1, "ü"]},
        },
    ],
    ids=["plain", "pax"],
)
def test_members_have_the_bytes_of_webdataset_s_writer(sample: dict[str, Any]) -> None:
    file = io.BytesIO()
    with TarWriter(file, mtime=0, format="PAX_FORMAT") as writer:
        writer.write(sample)
    content = tar_blocks(sample)
    assert file.getvalue().startswith(content)
    assert not file.getvalue()[len(content) :].strip(b"\0")
