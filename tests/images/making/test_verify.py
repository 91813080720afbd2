"""`python -m data.shards verify`: every kind of damage is found and named."""

import io
import json
import subprocess
import tarfile

import pytest
from PIL import Image

from data.config import IMAGE_SUFFIXES
from data.dataset import ShardImages
from data.making.indexing import moments_of
from data.making.verify import verify
from data.shards.__main__ import main
from data.shards.reading import open_shards
from data.shards.samples import ShardSamples
from data.shards.scanning import index_shard
from tests.support.programs import run
from tests.support.shards import write_tar


def picture(shade: int = 7) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 0, 0)).save(file, "jpeg")
    return file.getvalue()


def bomb() -> bytes:
    """A JPEG whose header claims 60,000 x 60,000 pixels."""
    small = picture()
    at = small.index(b"\xff\xc0") + 5  # height and width in the frame header
    return small[:at] + (60_000).to_bytes(2, "big") * 2 + small[at + 4 :]


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run("-m", "data.shards", *arguments)


GOOD = [("a.jpg", picture()), ("a.cls", b"1"), ("b.jpg", picture(9)), ("b.json", b"{}")]


def test_good_shards_pass(tmp_path):
    path = write_tar(tmp_path / "s.tar", GOOD)
    assert command("index", path).returncode == 0
    done = command("verify", path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "2 samples in 1 shards: all is well"


def test_the_embedded_data_set_passes():
    done = command("verify", "data/demo/test-000000.tar.gz")
    assert done.returncode == 0, done.stdout


def test_every_kind_of_fault_is_named_and_counted(tmp_path):
    bad = [
        ("a.jpg", picture()),
        ("a.jpg", picture()),
        ("README", b"of no sample"),
        ("label.cls", b"3"),
        ("broken.jpg", b"no image"),
        ("word.jpg", picture()),
        ("word.cls", b"cat"),
        ("a.png", picture()),
        ("bomb.jpg", bomb()),
    ]
    first, second = write_tar(tmp_path / "1.tar", GOOD), write_tar(tmp_path / "2.tar", bad)
    assert command("index", first).returncode == 0
    first.write_bytes(first.read_bytes() + bytes(512))
    cut = write_tar(tmp_path / "3.tar", [("z.jpg", picture()), ("y.jpg", bytes(5000))])
    cut.write_bytes(cut.read_bytes()[:2500])
    done = command("verify", f"{tmp_path}/{{1..3}}.tar")
    assert done.returncode == 1
    for line in (
        f"replaced: {first}: not the size or SHA-256",
        f"unlisted: {second}: in no index",
        f"duplicate: {second}: sample 'a': two members 'jpg'",
        f"duplicate: {second}: sample 'a' comes twice",
        f"duplicate: {second}: key 'a' is in {first}, too",
        f"orphan: {second}: 'README' belongs to no sample",
        f"orphan: {second}: sample 'label' has no image, only cls",
        f"undecodable: {second}: sample 'broken': 8 bytes cannot be decoded",
        f"undecodable: {second}: sample 'word': its label is no integer",
        f"oversized: {second}: sample 'bomb': 60000 x 60000 pixels exceed the limit of",
        f"unreadable: {cut}: ",
    ):
        assert line in done.stdout, line
    assert done.stdout.splitlines()[-1] == (
        "8 samples in 3 shards: 3 duplicate, 2 orphan, 1 oversized, 1 replaced, 2 undecodable,"
        " 2 unlisted, 1 unreadable"
    )


def test_shards_of_img2dataset_are_adopted_without_a_byte_changed(tmp_path):
    members = []
    for i in range(3):
        key = f"{i:09d}"
        record = json.dumps({"key": key, "caption": "a cat", "width": 8}).encode()
        members += [
            (f"{key}.jpg", picture(i)), (f"{key}.json", record), (f"{key}.txt", b"a cat")
        ]  # fmt: skip
    path = write_tar(tmp_path / "00000.tar", members)
    before = path.read_bytes()
    done = command("index", path, "--statistics")
    assert done.returncode == 0, done.stderr
    assert "mean" in done.stdout
    assert path.read_bytes() == before
    (shard,) = open_shards(str(path))
    assert shard.moments is not None
    assert shard.offsets == index_shard(path).offsets
    images = ShardImages(ShardSamples([shard]), size=(6, 8), in_chans=3)
    items = [images[(0, i)] for i in range(3)]
    assert [item["image"].shape for item in items] == [(3, 6, 8)] * 3
    assert all(item["whole"] for item in items)


def test_a_link_whose_image_is_lost_is_a_fault(tmp_path):
    path = write_tar(tmp_path / "s.tar", GOOD)
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("c.jpg")
        link.type = tarfile.SYMTYPE
        link.linkname = "a.jpg"
        tar.addfile(link)
    _, faults = verify([path], {}, 1)
    assert faults == {"unlisted": 1, "link": 1}


def test_an_image_member_can_be_named(tmp_path):
    path = write_tar(tmp_path / "s.tar", [("0.in.jpg", picture()), ("1.in.jpg", b"broken")])
    assert verify([path], {}, 1)[1] == {"unlisted": 1, "orphan": 2}
    assert verify([path], {}, 1, "in.jpg")[1] == {"unlisted": 1, "undecodable": 1}


def test_a_damaged_header_does_not_pass_for_the_end_of_the_archive(tmp_path):
    path = write_tar(tmp_path / "s.tar", GOOD)
    content = bytearray(path.read_bytes())
    at = content.index(b"b.jpg")
    content[at : at + 512] = b"\xff" * 512
    path.write_bytes(content)
    _, faults = verify([path], {}, 1)
    assert faults == {"unlisted": 1, "unreadable": 1}


def test_statistics_leave_out_and_name_what_is_broken(tmp_path, capsys):
    members = [*GOOD, ("c.jpg", b"no image"), ("d.cls", b"1")]
    shard = index_shard(write_tar(tmp_path / "s.tar", members))
    sound = index_shard(write_tar(tmp_path / "sound.tar", GOOD))
    assert moments_of(shard, None) == moments_of(sound, None)
    assert capsys.readouterr().err.splitlines() == [
        f"left out of the statistics: {shard.url}: sample 'c': 8 bytes cannot be decoded as an"
        " image (no known format, though its name ends in .jpg)",
        f"left out of the statistics: {shard.url}: sample 'd': no image: expected one of"
        f" {', '.join(IMAGE_SUFFIXES)}",
    ]
    bad = index_shard(write_tar(tmp_path / "bad.tar", [members[-2], ("e.jpg", b"nor this")]))
    with pytest.raises(
        ValueError, match=r"none of the 2 samples .*bad\.tar can.* \(.*'c': 8 bytes"
    ):
        moments_of(bad, None)


def test_statistics_stay_with_a_shard_that_is_indexed_again_until_it_changes(tmp_path):
    path = write_tar(tmp_path / "s.tar", GOOD)
    main(["index", str(path), "--statistics"])
    (first,) = open_shards(str(path))
    main(["index", str(path)])
    assert open_shards(str(path)) == [first]
    assert first.moments is not None
    write_tar(path, GOOD[:1])
    main(["index", str(path)])
    assert open_shards(str(path))[0].moments is None


@pytest.mark.parametrize("what", ["index", "verify"])
def test_what_is_missing_or_far_away_is_refused_in_one_line(what):
    assert command(what, "/nowhere.tar").stderr.startswith("error: shard /nowhere.tar does not")
    assert "copy them first" in command(what, "http://127.0.0.1/a.tar").stderr
