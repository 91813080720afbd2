"""WebDataset tar shards: written whole or not at all, indexed, checked, read sample by sample.

A shard is an ordinary tar that the plain `webdataset` library reads: consecutive members `KEY.png`,
`KEY.cls`, `KEY.json` are one sample. Beside the shards lies `index.json` with the size and SHA-256
of every shard and the byte offset of every sample, so that a damaged shard is refused before
training and any sample is read with one seek. `python -m data.shards SPEC` writes that index for
tars made elsewhere.

Three members of a tar take 2.5 kB beside their content. Where images are as small as that, shards
are better written compressed: `.tar.gz`, one gzip stream for every other reader, but flushed before
each sample (zlib's Z_FULL_FLUSH), so that the bytes of a sample can be decompressed alone.
"""

import io
import sys
import tarfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from braceexpand import braceexpand

from data.index import (
    INDEX,
    Shard,
    file_sha256,
    index_shard,
    read_index,
    sample_members,
    write_index,
)


def open_shards(spec: str | Sequence[str], verify: bool = True) -> list[Shard]:
    """Find the shards that `spec` names, in its order.

    `spec` is a path, a brace pattern such as `DIR/train-{000000..000003}.tar`, or a list of them.
    A shard listed in the `index.json` beside it must have the size given there and, with `verify`,
    the SHA-256; a shard that is not listed is scanned, which reads all of it.

    Raises FileNotFoundError for a missing shard; ValueError for a damaged one, a damaged index, a
    path named twice and a spec that names nothing.
    """
    patterns = [spec] if isinstance(spec, str) else list(spec)
    paths = [Path(path) for pattern in patterns for path in braceexpand(pattern) if path]
    if not paths:
        raise ValueError(
            f"{spec!r} names no shard; "
            "give a path or a pattern like 'DIR/train-{000000..000003}.tar'"
        )
    seen: set[Path] = set()
    for path in paths:
        if path.is_dir():
            raise ValueError(
                f"{path} is a directory; "
                f"name its shards, like '{path}/train-{{000000..000003}}.tar'"
            )
        if not path.is_file():
            raise FileNotFoundError(
                f"shard {path} does not exist; check the pattern {spec!r}, or build it "
                "(scripts/make_shards.py; the embedded set: python -m data.demo build)"
            )
        if path.resolve() in seen:
            raise ValueError(f"shard {path} is named twice in {spec!r}; name every shard once")
        seen.add(path.resolve())
    indexes = {directory: read_index(directory) for directory in {path.parent for path in paths}}

    def open_one(path: Path) -> Shard:
        listed = indexes[path.parent].get(path.name)
        return index_shard(path) if listed is None else _check(listed, verify)

    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        return list(pool.map(open_one, paths))


def read_sample(shard: Shard, i: int) -> dict[str, str | bytes]:
    """Read sample `i`: `{"__key__": str, "png": bytes, "cls": bytes, ...}`, suffixes in lower case.

    Raises IndexError unless 0 <= i < shard.samples, ValueError if the bytes there are no sample.
    """
    if not 0 <= i < shard.samples:
        raise IndexError(f"sample {i} of {shard.url}: it holds samples 0 to {shard.samples - 1}")
    start, end = shard.offsets[i : i + 2]
    with Path(shard.url).open("rb") as file:
        file.seek(start)
        content = file.read(end - start)
    sample: dict[str, str | bytes] = {}
    try:
        if len(content) < end - start:
            raise tarfile.TarError("the file ends before them")
        if shard.url.endswith(".gz"):
            content = zlib.decompressobj(wbits=-zlib.MAX_WBITS).decompress(content)
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for key, suffix, member in sample_members(tar):
                if sample.setdefault("__key__", key) != key:
                    raise tarfile.TarError(f"keys {sample['__key__']!r} and {key!r} in one sample")
                extracted = tar.extractfile(member)
                assert extracted is not None  # regular members have content
                sample[suffix] = extracted.read()
            if tar.offset != len(content):
                raise tarfile.TarError("a header is unreadable")
    except (tarfile.TarError, zlib.error) as error:
        raise ValueError(
            f"{shard.url}: bytes {start} to {end} are not sample {i} ({error}); the file changed "
            f"since it was indexed: restore it, or run python -m data.shards {shard.url}"
        ) from error
    return sample


def _check(shard: Shard, verify: bool) -> Shard:
    path = Path(shard.url)
    way_out = (
        "it is truncated, damaged or was replaced: restore it, or if it is meant to differ, "
        f"run python -m data.shards {path}"
    )
    size = path.stat().st_size
    if size != shard.size:
        raise ValueError(f"shard {path} has {size} bytes, {INDEX} says {shard.size}; {way_out}")
    if verify and (sha256 := file_sha256(path)) != shard.sha256:
        raise ValueError(
            f"shard {path} has SHA-256 {sha256}, {INDEX} says {shard.sha256}; {way_out}"
        )
    return shard


def main(specs: Sequence[str]) -> None:
    """Write the index of the shards that `specs` name: `python -m data.shards SPEC ...`."""
    if not specs or specs[0] in ("-h", "--help"):
        sys.exit(
            "usage: python -m data.shards SPEC ...   scan shards, write the index.json beside them"
        )
    try:
        shards = [index_shard(Path(path)) for spec in specs for path in braceexpand(spec)]
        write_index(shards)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    for shard in shards:
        print(f"{shard.url}: {shard.samples} samples, {shard.size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
