"""Tars that are changed at random: read whole or refused in a line, soon, and never as another."""

import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data.config import SourceConfig
from data.dataset import ShardImages
from data.making.verify import verify_shard
from data.shards.headers import BLOCK
from data.shards.reading import open_shards, read_sample
from data.shards.samples import ShardSamples
from data.shards.tar import members_of
from data.shards.writing import write_shards
from tests.support.images import png
from tests.support.tars import base256, member, record, with_sum

CHANGES = 300
SECONDS = 5.0
MEGABYTES = 300
NUMBERS = (2**40, 2**62, 2**87 - 1, -1, -512, -(2**40), 0, 511, 513)
SIZES = (*map(base256, NUMBERS), b"77777777777\0", b"x" * 12, bytes(12), b"-0000001000\0")
TYPES = [bytes([kind]) for kind in b"1234567SxgLKXVMDN\0\xff"]
NAMES = (
    b"../../x.png",
    b"/etc/passwd.png",
    b"\xff\x80.png",
    b"a\nb.png",
    b"\x1b[31mx.png",
    b".png",
)
NAMES += (b".", b"", b"__x__/a.png", b"s1.png", b"s0.PNG", b"a" * 100)
KEYS = (
    b"size",
    b"path",
    b"linkpath",
    b"GNU.sparse.map",
    b"GNU.sparse.size",
    b"hdrcharset",
    b"mtime",
)
VALUES = (
    b"-512",
    b"9" * 20,
    b"abc",
    b"0",
    b"../x.png",
    b"\0",
    b"",
    b"0,99999999999,5,3",
    b"BINARY",
)


def change(whole: bytes, starts: list[int], rng: random.Random) -> bytes:
    """One change of a tar whose headers start at these bytes."""
    content = bytearray(whole)
    at = rng.choice(starts)
    block = rng.randrange(len(content) // BLOCK) * BLOCK
    header = content[at : at + BLOCK]
    match rng.randrange(10):
        case 0:
            for _ in range(rng.choice((1, 1, 100))):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        case 1:
            header[rng.randrange(BLOCK)] ^= 1 << rng.randrange(8)
            content[at : at + BLOCK] = with_sum(bytes(header))
        case 2:
            del content[rng.choice((block, rng.randrange(len(content)))) :]
        case 3:
            content[block : block + rng.choice((0, BLOCK))] = rng.randbytes(BLOCK)
        case 4:
            content[block : block + BLOCK] = bytes(rng.choice((0, BLOCK)))
        case 5 | 6:
            first, values = rng.choice(((124, SIZES), (156, TYPES), (0, NAMES)))
            value = rng.choice(values).ljust(0 if first else 100, b"\0")
            header[first : first + len(value)] = value
            content[at : at + BLOCK] = with_sum(bytes(header))
        case 7:
            records = b"".join(record(rng.choice(KEYS), rng.choice(VALUES)) for _ in range(2))
            cut = rng.choice((records, records[: rng.randrange(len(records))]))
            content[at:at] = member(b"pax", cut, rng.choice((b"x", b"g")))
        case 8:
            kind = rng.choice(TYPES)
            size = rng.choice((None, *SIZES))
            content[at:at] = member(rng.choice(NAMES), rng.randbytes(700), kind, size)
        case _:
            end = rng.choice(starts)
            content[at:at] = content[min(at, end) : max(at, end)]
    return bytes(content)


@contextmanager
def soon() -> Iterator[None]:
    """Fail where the block takes longer than SECONDS."""

    def fail(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read_all(path: Path, source: SourceConfig) -> tuple[list[str | bytes], str]:
    """The keys of all samples, which are decoded as for training; or why they are refused."""
    try:
        (shard,) = open_shards(str(path), source=source)
        items = ShardImages(ShardSamples([shard]), size=(8, 8), in_chans=3)
        for i in range(shard.samples):
            assert all(str(bad).isprintable() for bad in items[(0, i)]["bad"])
        return [read_sample(shard, i)["__key__"] for i in range(shard.samples)], ""
    except ValueError as error:
        return [], str(error)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_changed_tar_is_read_whole_or_refused(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    samples = ({"__key__": f"s{i}", "png": png(i, (9, 8)), "cls": i, "json": {}} for i in range(4))
    (shard,) = write_shards(samples, tmp_path, "train", 4)
    path = Path(shard.url)
    whole = path.read_bytes()
    starts = [m.offset for m in members_of(lambda at, n: whole[at : at + n], len(whole))]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    other = tmp_path / "other.tar"
    read = 0
    for number in range(CHANGES // 3):
        content = change(whole, starts, rng)
        path.write_bytes(content)
        other.write_bytes(content)
        with soon():
            if content != whole:
                with pytest.raises(ValueError, match=r"train-000000\.tar has"):
                    open_shards(str(path))
            _, findings = verify_shard((other, None, ""))
            kinds = {kind for kind, _ in findings.faults}
            keys, refused = read_all(other, SourceConfig(cache=tmp_path / "cache"))
            if refused:
                assert refused.isprintable(), number
                assert kinds - {"unlisted"} or not findings.keys, (number, refused)
            else:
                assert keys == list(findings.keys), number
                assert not kinds & {"unreadable", "link", "sparse", "unknown", "duplicate"}, number
                read += 1
        assert all(what.isprintable() for _, what in findings.faults), number
    assert 0 < read < CHANGES // 3
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MEGABYTES * 1024
