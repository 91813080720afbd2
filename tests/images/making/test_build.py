"""Shards from a plan: another plan, workers that meet or die, sums of pixels."""

import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.config import Encoding
from data.making.build import build_shard, build_shards, plan_shards
from data.making.entries import Entry
from data.making.equal_images import equal_images
from data.making.listing import find_entries
from data.making.workers import over
from data.shards.moments import Moments
from data.shards.scanning import index_shard
from tests.support.images import write_images


def find_entries_of(paths: list[Path]) -> Sequence[Entry]:
    return find_entries(paths[0].parent, "path", None).entries


def test_another_plan_in_the_same_place_is_refused_with_what_differs(tmp_path):
    found = find_entries_of(write_images(tmp_path / "in", 4))
    staging, encoding = tmp_path / ".train.plan", Encoding()
    jobs = plan_shards(found, tmp_path, "train", 2, encoding)
    builds = build_shards(jobs, {"seed": 0}, staging, 1)
    next(builds)
    builds.close()
    with pytest.raises(ValueError, match=r"different shards \(seed: 0 -> 1\); repeat the command"):
        list(build_shards(jobs, {"seed": 1}, staging, 1))
    (tmp_path / "in" / "image0.png").write_bytes(b"another size")
    with pytest.raises(ValueError, match=r"different shards \(listing: "):
        list(build_shards(jobs, {"seed": 0}, staging, 1))


def test_two_workers_at_one_shard_do_not_meet(tmp_path):
    (job,) = plan_shards(
        find_entries_of(write_images(tmp_path / "in", 40)), tmp_path, "train", 40, Encoding()
    )
    (tmp_path / "staging").mkdir()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(build_shard, [(job, tmp_path / "staging")] * 4))
    assert all(built == results[0] for built in results)
    assert index_shard(job.path) == replace(results[0].shard, moments=None)
    assert [path.name for path in (tmp_path / "staging").iterdir()] == ["train-000000.tar.json"]


def test_equal_images_of_one_part_and_of_two_are_named(tmp_path):
    paths = write_images(tmp_path / "in", 6)
    paths[1].write_bytes(paths[0].read_bytes())
    paths[5].write_bytes(paths[2].read_bytes())
    found = find_entries_of(paths)
    finished = {
        prefix: list(
            build_shards(plan_shards(part, tmp_path, prefix, 2, Encoding()), {}, staging, 1)
        )
        for prefix, part, staging in (
            ("train", found[:4], tmp_path / ".train.plan"),
            ("val", found[4:], tmp_path / ".val.plan"),
        )
    }
    folder = tmp_path / "in"
    assert equal_images(finished) == [
        "1 images come twice or more, byte for byte:"
        f" {folder / 'image0.png'} = {folder / 'image1.png'}",
        "warning: 1 images are in more than one of train and val, byte for byte:"
        f" {folder / 'image2.png'} = {folder / 'image5.png'}; remove all but one of each, or give"
        " them one value in a column and name it with --group",
    ]
    assert equal_images({"val": finished["val"]}) == []
    jobs = plan_shards(found[4:], tmp_path, "val", 2, Encoding())
    assert list(build_shards(jobs, {}, tmp_path / ".val.plan", 1)) == finished["val"]  # from notes


@pytest.mark.dist
def test_a_killed_worker_is_said_in_one_line():
    with pytest.raises(ChildProcessError, match=r"a worker was killed, .* take fewer --workers"):
        list(over(signal.raise_signal, [signal.SIGKILL] * 2, workers=2))


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_do_not_depend_on_the_number_of_threads(channels):
    image = torch.rand(channels, 500, 375, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    found = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        found.append(Moments.of(image.numpy()))
    torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2]
