"""Tars of others: read as their makers meant them, or refused by the rule with the way out."""

import tarfile
from pathlib import Path

import pytest

from data.config import SourceConfig
from data.dataset import ShardImages
from data.shards.__main__ import main
from data.shards.reading import open_shards
from data.shards.samples import ShardSamples
from data.shards.scanning import index_shard
from tests.support.images import png
from tests.support.shards import write_tar

KEYS = [f"{i:03d}" for i in range(8)]


def add_link(path: Path, name: str, kind: bytes) -> None:
    """Append a link to `000.png` to a tar."""
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo(name)
        link.type = kind
        link.linkname = "000.png"
        tar.addfile(link)


def refused(path: Path, match: str) -> None:
    """By the command, and where a run opens the shard."""
    with pytest.raises(ValueError, match=match):
        main(["index", str(path)])
    assert not (path.parent / "index.json").exists()
    with pytest.raises(ValueError, match=match):
        open_shards(str(path), source=SourceConfig(cache=path.parent / "cache"))


def test_labels_after_all_images_are_no_samples_of_their_own(tmp_path: Path) -> None:
    images = [(f"{key}.png", png(i)) for i, key in enumerate(KEYS)]
    labels = [(f"{key}.cls", b"0") for key in KEYS]
    path = write_tar(tmp_path / "apart.tar", images + labels)
    refused(path, r"sample '000' begins again at '000\.cls'.*tar --sort=name")


def test_an_unsorted_tar_is_refused_with_the_key(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("b.png", png(0)), ("a.png", png(1)), ("b.cls", b"1")])
    refused(path, r"sample 'b' begins again at 'b\.cls'")


def test_several_images_under_one_key_are_refused_with_the_rule(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [(f"a.{i}.png", png(i)) for i in range(9)])
    refused(
        path,
        r"1 of 1 samples have no image, such as 'a', which has 0\.png, 1\.png, .*7\.png and 1 more;"
        " a name is split at the first dot .*: rename",
    )


def test_images_and_labels_with_keys_of_their_own_are_refused(tmp_path: Path) -> None:
    members = [(f"{key}/{name}", png(0)) for key in KEYS for name in ("image.png", "label.cls")]
    path = write_tar(tmp_path / "s.tar", members)
    refused(path, r"8 of 16 samples have no image, such as '000/label', which has cls")


@pytest.mark.parametrize("suffix", ["input.png", "img"])
def test_an_image_member_is_refused_until_it_is_named(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_tar(tmp_path / "s.tar", [(f"{key}.{suffix}", png(int(key))) for key in KEYS])
    source = SourceConfig(cache=tmp_path / "cache")
    refused(path, rf"which has {suffix};")
    shards = open_shards(str(path), source=source, image=suffix)
    items = ShardImages(ShardSamples(shards), size=(40, 48), in_chans=3, image=suffix)
    assert [items[(0, i)]["whole"] for i in range(8)] == [True] * 8
    assert items[(0, 0)]["image"].unique().numel() > 200  # noise, as it was drawn
    main(["index", str(path), "--image", suffix, "--statistics"])
    said = capsys.readouterr().out
    assert f"members: {suffix} 8\n" in said
    assert "mean 0.4954 0.5034 0.4979  std 0.2886 0.2903 0.2907" in said


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_links_are_refused_by_name(tmp_path: Path, kind: bytes) -> None:
    path = write_tar(tmp_path / "s.tar", [("000.png", png(0))])
    add_link(path, "001.png", kind)
    refused(path, r"'001\.png' is a (hard|symbolic) link to '000\.png' .*--dereference")


def test_tars_joined_with_cat_are_refused(tmp_path: Path) -> None:
    one = write_tar(tmp_path / "1.tar", [("a.png", png(0))])
    two = write_tar(tmp_path / "2.tar", [("b.png", png(1))])
    joined = tmp_path / "both.tar"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    refused(joined, r"ends at byte \d+ and more data follows.*tar --concatenate")


def test_a_tar_without_its_end_is_refused_until_it_is_added(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("a.png", png(0))])
    whole = path.read_bytes()
    path.write_bytes(whole[: index_shard(path).offsets[-1]])
    refused(path, "after a whole member, without the two blocks of zeros.*head -c 1024")
    path.write_bytes(path.read_bytes() + bytes(1024))
    assert index_shard(path).samples == 1


def test_the_index_reports_what_will_not_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [("a.png", png(0)), ("a.cls", b"1"), ("README", b""), ("b.png", png(1)), ("c.cls", b"")]
    write_tar(tmp_path / "1.tar", first)
    write_tar(tmp_path / "2.tar", [("a.png", png(0)), ("a.1.png", png(1)), ("._a.png", b"")])
    main(["index", f"{tmp_path}/*.tar"])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "members: png 3, cls 2, 1.png 1",
        "1 of 4 samples have no image",
        "1 labels (cls) are no whole numbers, such as ''",
        "2 of 4 samples have no label (cls)",
        "1 samples have the key of one in another shard",
        "1 members belong to no sample, such as 'README'",
    ]


def test_a_cache_that_cannot_be_used_is_named_with_the_flag(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("a.png", png(0))])
    with pytest.raises(
        OSError, match=r"/proc/.* cannot be used as a cache .*--data\.source\.cache"
    ):
        open_shards(str(path), source=SourceConfig(cache=Path("/proc/nowhere")))


def test_index_says_which_labels_are_none_and_that_samples_have_several_images(tmp_path, capsys):
    labels = [(b"2", "png"), (b"cat", "jpg"), (b"1.0", "jpg"), (b"-1", "webp")]
    members = [
        (f"{i}.{suffix}", content)
        for i, (label, other) in enumerate(labels)
        for suffix, content in ({"png": png(i), other: png(i), "cls": label}).items()
    ]
    path = write_tar(tmp_path / "s.tar", members)
    main(["index", str(path)])
    said = capsys.readouterr().out
    assert "2 labels (cls) are no whole numbers, such as 'cat'" in said
    assert "3 of 4 samples have several images" in said
    main(["index", str(path), "--image", ".PNG"])
    assert "several images" not in capsys.readouterr().out


def test_a_pointer_of_git_lfs_is_named_as_one(tmp_path):
    path = tmp_path / "s.tar"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    refused(path, "no plain tar but a pointer of Git LFS; run git lfs pull")
