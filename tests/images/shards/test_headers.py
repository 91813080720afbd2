"""Headers of tars: all dialects are read as their writers meant them, and nothing is believed."""

import io
import itertools
import os
import re
import resource
import shutil
import subprocess
import tarfile
import zlib
from array import array
from collections.abc import Iterable
from pathlib import Path

import pytest

from data.making.verify import verify_shard
from data.shards.headers import BLOCK, DamagedTar, read_header, total_of
from data.shards.index import Shard, from_entry
from data.shards.members import unpack
from data.shards.reading import read_sample
from data.shards.scanning import index_shard
from data.shards.tar import INFLATED, Member, members_of, reader
from tests.support.images import png
from tests.support.shards import write_tar
from tests.support.tars import base256, header, member, record, with_sum

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def walk(content: bytes) -> list[Member]:
    return list(members_of(reader(io.BytesIO(content)), len(content)))


def same_as_tarfile(content: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        theirs = [
            (info.name, info.isreg(), info.offset, info.offset_data, info.size * info.isreg())
            for info in tar
        ]
    ours = [
        (one.name.rstrip("/"), is_file, one.offset, one.start, one.size * is_file)
        for one in walk(content)
        for is_file in [one.kind == "file"]
    ]
    assert ours == theirs


@pytest.mark.parametrize("format", FORMATS)
def test_members_are_found_where_tarfile_finds_them(format: int) -> None:
    file = io.BytesIO()
    names = ("a.jpg", "a/b.c/d.png", "long/" * 30 + "e.cls", "umläut.jpg", "x" * 99, "y" * 100)
    longer = () if format == tarfile.USTAR_FORMAT else ("z" * 300 + ".png", "日本/" * 90 + "j.png")
    options = {"comment": "of all"} if format == tarfile.PAX_FORMAT else None
    with tarfile.open(fileobj=file, mode="w", format=format, pax_headers=options) as tar:
        for name, size in itertools.product(names + longer, (0, 1, 511, 512, 70_000)):
            info = tarfile.TarInfo(f"{size}/{name}"[-100:] if not longer else f"{size}/{name}")
            info.size = size
            tar.addfile(info, io.BytesIO(b"1" * size))
        for kind in (tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("folder")
            info.type = kind
            tar.addfile(info)
    same_as_tarfile(file.getvalue())


def test_headers_of_old_programs_are_read() -> None:
    v7 = with_sum(header(b"a.png", b"\0")[:257] + bytes(255))
    folder = with_sum(header(b"a/", b"\0")[:257] + bytes(255))
    contiguous = header(b"b.png", b"7")
    sun = with_sum(header("ä.png".encode("latin-1")), signed=True)
    blanks = header(b"c.png", size=b"         12 ")
    big = member(b"d.png", b"12", size=base256(2))
    content = folder + v7 + contiguous + blanks + bytes(512) + big
    same_as_tarfile(content)
    assert [(one.name, one.kind, one.size) for one in walk(content + sun)] == [
        ("a/", "left out", 0),
        ("a.png", "file", 0),
        ("b.png", "file", 0),
        ("c.png", "file", 10),
        ("d.png", "file", 2),
        ("\\xe4.png", "file", 0),
    ]


@pytest.mark.parametrize("zeros", [0, 255, 256, 257, 512])
def test_sums_of_bytes_are_exact(zeros: int) -> None:
    assert total_of(bytes(zeros) + b"\xff" * (BLOCK - zeros)) == 255 * (BLOCK - zeros)


def test_a_header_of_many_records_takes_no_time() -> None:
    content = record(b"a", b"b") * 40_000
    (one,) = walk(member(b"x", content, b"x") + header())
    assert one.name == "a.png"


def test_times_of_gnu_are_no_part_of_a_name() -> None:
    block = header()[:257] + b"ustar  \0" + header()[265:345] + b"14712345670\0" + bytes(155)
    assert read_header(with_sum(block), 0).name == "a.png"


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
@pytest.mark.parametrize("format", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_tars_of_gnu_are_read_as_their_files(format: str, tmp_path: Path) -> None:
    folder = tmp_path / "d" / "ünï"
    folder.mkdir(parents=True)
    longer = "n" * 150 if format in ("gnu", "oldgnu", "posix") else "n" * 60
    for number, name in enumerate(("a.png", "b.png", f"{longer}.png")):
        (folder / name).write_bytes(png(number))
        (folder / name).with_suffix(".cls").write_text(str(number))
    (folder / "sparse.png").touch()
    tar = ["tar", f"--format={format}", "--sort=name", "-C", str(tmp_path)]
    subprocess.run([*tar, "-cf", str(tmp_path / "s.tar"), "d"], check=True)
    shard = index_shard(tmp_path / "s.tar")
    same_as_tarfile((tmp_path / "s.tar").read_bytes())
    for number, name in enumerate(("a", "b", longer)):
        sample = {"__key__": f"d/ünï/{name}", "png": png(number), "cls": str(number).encode()}
        assert read_sample(shard, number) == sample
    if format in ("gnu", "posix"):
        os.truncate(folder / "sparse.png", 2**22)
        subprocess.run([*tar, "--sparse", "-cf", str(tmp_path / "h.tar"), "d"], check=True)
        with pytest.raises(ValueError, match=r"'d/ünï/sparse\.png' is a file with holes"):
            index_shard(tmp_path / "h.tar")


HUGE = base256(2**40)
SIZES = (base256(-512), base256(-1), base256(-(2**40)), b"-0000001000\0", b"x" * 11 + b"\0")
SIZES += (b"1_000000000\0", b"+0000001000\0", b"0x00000010\0\0", b"00000000008\0")
BAD_RECORDS = (
    *(record(b"size", size) for size in (b"-512", b"9" * 20, b"abc", b"1e3", b"+5", b"\xb2")),
    record(b"path", b"a\0.png"),
    *(b"999999999 path=x\n", b"0 path=x\n", b"-5 path=x\n", b"nolength", b"12 path=x", b"6 a=b"),
    *(b"5 a=b", b"4 a=\n" * 2, b"9" * 5000 + b" path=x\n", b"3 =\n", b"\n"),
)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        *((member(b"a.png", bytes(512), size=size), "has the size") for size in SIZES),
        (member(b"a.png", bytes(512), size=HUGE), r"'a\.png' at byte 0 claims 1099511627776 bytes"),
        (
            member(b"a.png", b"", size=b"77777777777\0"),
            "claims 8589934591 bytes, and the file ends",
        ),
        *(
            (member(b"x", b"a.png", kind, size), f"adds {2**40} bytes to another one, more than")
            for kind in (b"L", b"K", b"x", b"X", b"g")
            for size in (HUGE,)
        ),
        (member(b"x", b"a.png", b"L", 2**20), "ends within the header at byte 0"),
        (member(b"x", b"a.png", b"L"), "ends at byte 1024, behind a header that has no member"),
        *((member(b"x", bad, b"x") + header(), "the PAX header at byte 0") for bad in BAD_RECORDS),
        (member(b"x", record(b"size", b"%d" % 2**40), b"x") + header(), "claims 1099511627776"),
        *(
            (member(b"x", record(key, b"7"), b"g") + header(), "gives all members one name or size")
            for key in (b"path", b"size", b"GNU.sparse.major")
        ),
        (
            header()[:300] + b"x" * 212,
            "byte 0 begins neither a tar header nor the end of the archive",
        ),
        (header() + b"\xff" * 512, "byte 512 begins neither a tar header"),
    ],
)
def test_what_no_tar_has_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedTar, match=why):
        walk(content)
    path = tmp_path / "s.tar"
    path.write_bytes(member(b"0.png", b"1") + content.replace(bytes(512), b"") + bytes(1024))
    with pytest.raises(ValueError, match=r"s\.tar is truncated, damaged or no uncompressed tar"):
        index_shard(path)
    _, findings = verify_shard((path, None, ""))
    assert [kind for kind, _ in findings.faults][-1] == "unreadable"


def sparse() -> Iterable[bytes]:
    """Members that claim terabytes in 512 bytes."""
    holes = with_sum(header(kind=b"S")[:482] + b"\1" + base256(2**41) + bytes(17))
    yield holes + bytes(504) + b"\1" + bytes(7) + bytes(512)
    yield member(b"x", record(b"GNU.sparse.map", b"0,99999999999999,5,3"), b"x") + header()
    for key in (b"GNU.sparse.size", b"GNU.sparse.realsize", b"GNU.sparse.major"):
        yield member(b"x", record(key, b"1099511627776"), b"x") + header()


@pytest.mark.parametrize("content", list(sparse()))
def test_files_with_holes_are_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (one,) = walk(content)
    assert (one.kind, one.after) == ("sparse", len(content))
    path = tmp_path / "s.tar"
    path.write_bytes(member(b"0.png", png(0)) + content + bytes(1024))
    with pytest.raises(ValueError, match=r"s\.tar: 'a\.png' is a file with holes.*without --spar"):
        index_shard(path)
    _, findings = verify_shard((path, None, ""))
    assert [kind for kind, _ in findings.faults] == ["unlisted", "sparse"]
    with pytest.raises(DamagedTar, match="holes"):
        list(unpack(content))


@pytest.mark.parametrize("kind", [b"M", b"N", b"\xff", b"Z"])
def test_unknown_types_are_refused_and_labels_left_out(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    first = member(b"volume", b"", b"V") + member(b"list", b"Ya.png\0", b"D")
    path.write_bytes(first + member(b"0.png", png(0)) + bytes(1024))
    assert index_shard(path).offsets.tolist()[0] == len(first)
    path.write_bytes(first + member(b"0.png", png(0), kind) + bytes(1024))
    with pytest.raises(ValueError, match=r"'0\.png' is of the unknown type b"):
        index_shard(path)


def test_sizes_of_pax_go_before_those_of_ustar(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    said = record(b"size", b"%d" % len(png(0))) + record(b"path", b"b.png")
    own = member(b"a.png", png(0), size=0)
    path.write_bytes(member(b"x", said, b"x") + own + bytes(1024))
    shard = index_shard(path)
    assert read_sample(shard, 0) == {"__key__": "b", "png": png(0)}


def test_names_are_shown_escaped_and_can_be_kept(tmp_path: Path) -> None:
    names = {b"\xff\xfe.png": "\\xff\\xfe", b"c\nd.png": "c\nd", b"\x1b[31mx.png": "\x1b[31mx"}
    path = tmp_path / "s.tar"
    path.write_bytes(b"".join(member(name, png(0)) for name in names) + bytes(1024))
    shard = index_shard(path)
    assert [read_sample(shard, i)["__key__"] for i in range(3)] == list(names.values())
    twice = b"".join(member(name, png(0)) for name in (b"\xff\x1b\n.png",) * 2)
    path.write_bytes(twice + bytes(1024))
    with pytest.raises(ValueError, match="two members 'png'") as refused:
        index_shard(path)
    assert str(refused.value).isprintable()
    path.write_bytes(member(b"a.\x1b[31mx\n", png(0)) + bytes(1024))
    with pytest.raises(ValueError, match=r"which has \\x1b\[31mx\\n;") as refused:
        index_shard(path)
    assert str(refused.value).isprintable()


def test_samples_of_more_than_memory_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(header(size=base256(2**40)))
    with path.open("r+b") as file:
        file.truncate(2**40 + 2048)  # a hole
    with pytest.raises(ValueError, match=r"sample 'a' has more than 4294967296 bytes.*'a\.png'"):
        index_shard(path)
    _, findings = verify_shard((path, None, ""))
    assert "sample 'a' has more than 4294967296 bytes" in findings.faults[-1][1]
    entry = {"size": 2**40 + 2048, "sha256": "0" * 64, "offsets": [0, 2**40 + 512]}
    with pytest.raises(ValueError, match="it has a sample of more than 4294967296 bytes"):
        from_entry(str(path), entry)


def test_zeros_without_end_are_not_read_to_their_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("a.png", png(0))])
    with path.open("r+b") as file:
        file.truncate(2**30)  # a hole
    _, findings = verify_shard((path, None, ""))
    assert "zeros follow the end of the archive" in findings.faults[-1][1]


def bomb(gigabytes: int) -> bytes:
    """A deflated stream of zeros, flushed as a sample of a compressed shard is."""
    stream = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    head = stream.compress(header(size=base256(gigabytes * 2**30))) + stream.flush(
        zlib.Z_FULL_FLUSH
    )
    megabyte = stream.compress(bytes(2**20)) + stream.flush(zlib.Z_FULL_FLUSH)
    return head + megabyte * (1024 * gigabytes)


def test_what_comes_out_of_a_compressed_sample_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "s.tar.gz"
    content = bomb(1)
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    offsets = array("q", [10, len(content)])
    shard = Shard(url=str(path), size=len(content), sha256="0" * 64, offsets=offsets)
    with pytest.raises(ValueError, match=rf"they unpack to more than {INFLATED} bytes"):
        read_sample(shard, 0)
    _, findings = verify_shard((path, None, ""))
    assert re.search(r"'a\.png' at byte 0 claims \d+ bytes, and that is too", str(findings.faults))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1.2 * INFLATED / 1024
