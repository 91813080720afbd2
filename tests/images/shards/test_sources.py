"""Shards from a real HTTP server that fails in every way, and from a real S3 server."""

import io
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.config import DataConfig, SourceConfig
from data.order import GlobalBatches, Order
from data.pipeline import train_loader
from data.shards.index import INDEX, Shard
from data.shards.reading import open_shards, read_sample
from data.shards.writing import write_shards
from tests.support.programs import Program, start
from tests.support.servers import Server

# fsspec and its drivers close their connections when they are collected
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "jpeg")
    return file.getvalue()


@pytest.fixture
def local(tmp_path: Path) -> list[Shard]:
    samples = ({"__key__": f"s{i}", "jpg": jpeg(i), "cls": i} for i in range(24))
    return write_shards(samples, tmp_path / "served", "train", 8)


@pytest.fixture
def source(tmp_path: Path) -> SourceConfig:
    return SourceConfig(cache=tmp_path / "cache", backoff=0.01, timeout=1.0, attempts=4)


def pattern(server: Server) -> str:
    return f"{server.url}/train-{{000000..000002}}.tar"


def all_samples(shards: list[Shard], source: SourceConfig) -> list[dict]:
    return [read_sample(shard, i, source) for shard in shards for i in range(shard.samples)]


@pytest.mark.parametrize("read", ["shard", "range"])
def test_remote_samples_equal_local_ones(local, server, source, read):
    source = replace(source, read=read)
    shards = open_shards(pattern(server), source=source)
    assert [shard.sha256 for shard in shards] == [shard.sha256 for shard in local]
    assert all_samples(shards, source) == all_samples(local, source)
    assert len(server.gets) == (3 if read == "shard" else 24)


@pytest.mark.parametrize("read", ["shard", "range"])
@pytest.mark.parametrize("fault", ["drop", "truncate", "503", "429", "stall"])
def test_every_failure_of_a_server_is_overcome(local, server, source, read, fault):
    source = replace(source, read=read)
    shard = open_shards(f"{server.url}/train-000001.tar", source=source)[0]
    server.faults = [fault, fault]
    assert read_sample(shard, 3, source) == read_sample(local[1], 3)
    assert len(server.gets) == 3


def test_a_server_that_never_recovers_ends_in_one_error(server, source):
    shard = open_shards(f"{server.url}/train-000001.tar", source=source)[0]
    server.faults = ["503"] * 9
    with pytest.raises(
        OSError, match=r"000001\.tar could not be read in 4 attempts .*503.*can be raised"
    ):
        read_sample(shard, 0, source)
    assert len(server.gets) == 4


def test_what_trying_again_cannot_help_ends_at_once(server, source):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tar"):
        open_shards(f"{server.url}/nowhere.tar", source=source)
    shard = open_shards(f"{server.url}/train-000001.tar", source=source)[0]
    server.faults = ["403"] * 9
    with pytest.raises(OSError, match="could not be read in 1 attempts"):
        read_sample(shard, 0, source)


def test_reading_by_range_asks_for_no_other_byte(server, source):
    source = replace(source, read="range")
    shard = open_shards(f"{server.url}/train-000001.tar", source=source)[0]
    read_sample(shard, 5, source)
    assert server.gets == [("train-000001.tar", shard.offsets[5], shard.offsets[6])]


def test_a_resumed_loader_opens_no_earlier_sample(server, source):
    source = replace(source, read="range")
    shards = open_shards(pattern(server), source=source)
    order = Order([shard.samples for shard in shards], 0, 3)
    loader = train_loader(
        shards,
        DataConfig(train=("unused",), workers=0, source=source),
        GlobalBatches(order, batch_size=4, start=48 + 12, steps=1),
        size=(16, 16),
        in_chans=3,
        pin_memory=False,
    )
    (batch,) = loader
    assert batch["epoch"].tolist() == [2] * 4
    wanted = [divmod(sample, 8) for sample in batch["sample"].tolist()]
    assert server.gets == [
        (shards[shard].name, *shards[shard].offsets[i : i + 2]) for shard, i in wanted
    ]


@pytest.mark.parametrize("read", ["shard", "range"])
def test_a_replaced_shard_is_named(local, server, source, read):
    source = replace(source, read=read)
    (shard,) = open_shards(f"{server.url}/train-000000.tar", source=source)
    path = Path(local[0].url)
    written = path.stat().st_mtime_ns
    path.write_bytes(bytes(512) + path.read_bytes()[512:])  # of the same size
    os.utime(path, ns=(written, written))  # and date, which another test is about
    with pytest.raises(ValueError, match=r"train-000000\.tar.*(replaced|changed since)"):
        read_sample(shard, 0, source)
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(ValueError, match=r"000000\.tar has \d+ bytes, index\.json says"):
        open_shards(shard.url, source=source)


def test_a_remote_shard_without_an_index_is_scanned_once(local, server, source):
    (Path(local[0].url).parent / INDEX).unlink()
    shards = open_shards(pattern(server), source=source)
    assert [shard.offsets for shard in shards] == [shard.offsets for shard in local]
    assert open_shards(pattern(server), source=source) == shards
    assert all_samples(shards, source) == all_samples(local, source)
    assert len(server.gets) == 3  # and the scanned copies serve the samples


def test_a_local_shard_without_an_index_is_scanned_again_only_when_it_changed(local, source):
    path = Path(local[0].url)
    (path.parent / INDEX).unlink()
    assert open_shards(local[0].url, source=source) == [local[0]]
    scans = source.cache / "indexes"
    assert len(list(scans.glob("*.json"))) == 1
    open_shards(local[0].url, source=source)
    assert len(list(scans.glob("*.json"))) == 1
    os.utime(path, (1, 1))
    open_shards(local[0].url, source=source)
    assert len(list(scans.glob("*.json"))) == 2


def test_the_cache_keeps_to_its_bound_and_drops_what_was_used_longest_ago(server, source):
    shards = open_shards(pattern(server), source=source)
    source = replace(source, cache_gb=2.5 * shards[0].size / 1e9)
    for number in (0, 1, 0, 2, 0):  # 1 goes when 2 comes
        read_sample(shards[number], 0, source)
        time.sleep(0.01)
    assert [name for name, *_ in server.gets] == [shards[i].name for i in (0, 1, 2)]
    kept = list((source.cache / "shards").glob("*.tar"))
    assert sum(path.stat().st_size for path in kept) <= source.cache_gb * 1e9
    read_sample(shards[1], 0, source)
    assert len(server.gets) == 4


def test_a_shard_that_the_cache_cannot_hold_is_named(server, source):
    (shard,) = open_shards(f"{server.url}/train-000000.tar", source=source)
    small = replace(source, cache_gb=1e-6)
    with pytest.raises(ValueError, match=r"cache_gb=1e-06 holds less; raise it, or take .*range"):
        read_sample(shard, 0, small)


def test_a_slow_fetch_is_not_taken_from_under_its_process(local, server, source):
    shards = open_shards(pattern(server), source=source)
    source = replace(source, cache_gb=1.2 * shards[0].size / 1e9)  # room for one
    server.faults = ["slow"]
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(read_sample, shards[0], 3, source)
        while not server.gets:
            time.sleep(0.01)
        read_sample(shards[1], 3, source)
        assert slow.result() == read_sample(local[0], 3)
    kept = list((source.cache / "shards").glob("*.tar"))
    assert sum(path.stat().st_size for path in kept) <= source.cache_gb * 1e9


def test_the_part_that_a_killed_fetch_left_makes_room(server, source):
    shards = open_shards(pattern(server), source=source)
    left = source.cache / "shards" / "0.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(shards[0].size))
    read_sample(shards[0], 0, replace(source, cache_gb=1.2 * shards[0].size / 1e9))
    assert not left.exists()


def test_a_remote_shard_without_an_index_is_scanned_again_when_its_date_changed(
    local, server, source
):
    path = Path(local[0].url)
    (path.parent / INDEX).unlink()
    (before,) = open_shards(f"{server.url}/train-000000.tar", source=source)
    content = path.read_bytes()
    path.write_bytes(content[:600] + b"!" + content[601:])  # of the same size
    os.utime(path, (1, 1))
    (after,) = open_shards(f"{server.url}/train-000000.tar", source=source)
    assert before.size == after.size
    assert before.sha256 != after.sha256


READER = """
import sys
from pathlib import Path
from data.shards.reading import open_shards, read_sample
from data.config import SourceConfig
source = SourceConfig(cache=Path(sys.argv[2]), backoff=0.01, timeout=5.0)
(shard,) = open_shards(sys.argv[1], source=source)
print(read_sample(shard, 3, source)["__key__"])
"""


def reader(url: str, source: SourceConfig) -> Program:
    return start("-c", READER, url, source.cache)


@pytest.mark.dist
def test_processes_of_a_node_fetch_a_shard_once(server, source):
    server.faults = ["slow"]
    readers = [reader(f"{server.url}/train-000001.tar", source) for _ in range(3)]
    assert [one.communicate()[0] for one in readers] == ["s11\n"] * 3
    assert len(server.gets) == 1


@pytest.mark.dist
def test_a_killed_download_neither_blocks_nor_counts_as_whole(server, source):
    server.faults = ["stall"]
    killed = reader(f"{server.url}/train-000001.tar", source)
    while not server.gets:
        time.sleep(0.05)
    time.sleep(0.3)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not list((source.cache / "shards").glob("*.tar"))
    shard = open_shards(f"{server.url}/train-000001.tar", source=source)[0]
    assert read_sample(shard, 3, source)["__key__"] == "s11"
    assert not list((source.cache / "shards").glob("*.part"))


@pytest.mark.dist
@pytest.mark.parametrize("read", ["shard", "range"])
def test_workers_forked_after_a_remote_read_give_the_same_batches(local, server, source, read):
    source = replace(source, read=read, timeout=10.0)

    def batches(shards: list[Shard], workers: int) -> list[torch.Tensor]:
        config = DataConfig(train=("unused",), workers=workers, source=source)
        order = Order([shard.samples for shard in shards], 0, 2)
        loader = train_loader(
            shards,
            config,
            GlobalBatches(order, batch_size=4, start=0, steps=7),
            size=(16, 16),
            in_chans=3,
            pin_memory=False,
        )
        return [batch["image"] for batch in loader]

    shards = open_shards(pattern(server), source=source)
    read_sample(shards[0], 0, source)
    for a, b in zip(batches(local, 0), batches(shards, 2), strict=True):
        assert torch.equal(a, b)


def test_an_unknown_scheme_is_named(source):
    with pytest.raises(ValueError, match=r"known are http\(s\), s3, gs and hf"):
        open_shards("gopher://there/train-000000.tar", source=source)


def test_shards_on_s3_equal_local_ones(local, source, monkeypatch):
    import boto3
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    try:
        host, port = running.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="tiles")
        folder = Path(local[0].url).parent
        for path in folder.iterdir():
            client.upload_file(str(path), "tiles", f"set/{path.name}")
        for read in ("shard", "range"):
            source = replace(source, read=read, timeout=20.0)
            shards = open_shards("s3://tiles/set/train-{000000..000002}.tar", source=source)
            assert all_samples(shards, source) == all_samples(local, source)
        with pytest.raises(FileNotFoundError, match=r"nowhere\.tar"):
            open_shards("s3://tiles/set/nowhere.tar", source=source)
    finally:
        running.stop()
