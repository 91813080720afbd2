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

import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

INDEX = "index.json"
_BLOCK = 512  # bytes: a tar is a sequence of blocks of this size, ended by blocks of zeros


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file and where its samples lie.

    `offsets` are in bytes of the file: the start of each sample, then the end of the last sample.
    `size` is in bytes, `sha256` in hexadecimal.
    """

    path: Path
    size: int
    sha256: str
    offsets: tuple[int, ...]

    @property
    def samples(self) -> int:
        """How many samples the shard holds."""
        return len(self.offsets) - 1


def write_shards(
    samples: Iterable[Mapping[str, Any]],
    directory: Path,
    prefix: str,
    shard_size: int,
    compress: bool = False,
) -> list[Shard]:
    """Write `directory/PREFIX-000000.tar`, ... with `shard_size` samples each, and index them.

    A sample is `{"__key__": str, "png" | "jpg": bytes, "cls": int, "json": dict}`; any member may
    be left out or given as bytes. With `compress` the files are `.tar.gz`. Equal samples make equal
    bytes. Shards are written in a temporary folder, synced, and moved to their place when the last
    sample is written: an interrupted call leaves no shard with a final name. One call at a time may
    write into a directory.

    Raises ValueError for a key that webdataset would cut or join with its neighbour, for no
    samples, and for a `shard_size` below 1; FileExistsError if the directory holds shards of this
    prefix.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size={shard_size} must be at least 1 sample")
    existing = sorted(directory.glob(f"{prefix}-*.tar*"))
    if existing:
        raise FileExistsError(
            f"{existing[0]} exists and shards are never overwritten; "
            f"delete {directory}/{prefix}-*.tar* or choose another directory or prefix"
        )
    directory.mkdir(parents=True, exist_ok=True)
    stream, shards = _checked(samples), list[Shard]()
    with tempfile.TemporaryDirectory(prefix=f".{prefix}-", dir=directory) as staging:
        while batch := list(islice(stream, shard_size)):
            name = f"{prefix}-{len(shards):06d}.tar" + (".gz" if compress else "")
            shards.append(_write_shard(batch, Path(staging) / name, compress))
        if not shards:
            raise ValueError(f"no samples to write as {prefix!r} shards into {directory}")
        for shard in shards:
            shard.path.rename(directory / shard.path.name)
    shards = [replace(shard, path=directory / shard.path.name) for shard in shards]
    write_index(shards)
    return shards


def index_shard(path: Path) -> Shard:
    """Scan the uncompressed tar at `path`, made by anyone, and find its samples.

    A sample is a run of regular members with one key (see `split_name`); other members belong to
    none. Raises ValueError if the file is truncated, damaged, compressed, holds no sample or
    repeats a member.
    """
    with path.open("rb") as file:
        offsets: list[int] = []
        current, suffixes, end = None, set[str](), 0
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for key, suffix, member in _members(tar):
                    if key != current:
                        offsets.append(member.offset)
                        current, suffixes = key, set()
                    if suffix in suffixes:
                        raise ValueError(
                            f"{path}: sample {key!r} has two members {suffix!r}; "
                            "every name in a shard must be unique"
                        )
                    suffixes.add(suffix)
                    end = tar.offset
                after = tar.offset
        except tarfile.TarError as error:
            raise ValueError(
                f"{path} is truncated, damaged or no uncompressed tar ({error}); "
                "copy or build it again, or decompress it"
            ) from error
        # tarfile takes an unreadable header for the end of the archive, which is a block of zeros
        file.seek(after)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise ValueError(
                f"{path} is truncated or damaged: byte {after} begins neither a tar header nor the "
                "end of the archive; copy or build it again"
            )
    if not offsets:
        raise ValueError(f"{path} holds no samples: members must be named KEY.png, KEY.cls, ...")
    size, sha256 = path.stat().st_size, _sha256(path)
    return Shard(path=path, size=size, sha256=sha256, offsets=(*offsets, end))


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
    indexes = {directory: _read_index(directory) for directory in {path.parent for path in paths}}

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
        raise IndexError(f"sample {i} of {shard.path}: it holds samples 0 to {shard.samples - 1}")
    start, end = shard.offsets[i : i + 2]
    with shard.path.open("rb") as file:
        file.seek(start)
        content = file.read(end - start)
    sample: dict[str, str | bytes] = {}
    try:
        if len(content) < end - start:
            raise tarfile.TarError("the file ends before them")
        if shard.path.suffix == ".gz":
            content = zlib.decompressobj(wbits=-zlib.MAX_WBITS).decompress(content)
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for key, suffix, member in _members(tar):
                if sample.setdefault("__key__", key) != key:
                    raise tarfile.TarError(f"keys {sample['__key__']!r} and {key!r} in one sample")
                extracted = tar.extractfile(member)
                assert extracted is not None  # regular members have content
                sample[suffix] = extracted.read()
            if tar.offset != len(content):
                raise tarfile.TarError("a header is unreadable")
    except (tarfile.TarError, zlib.error) as error:
        raise ValueError(
            f"{shard.path}: bytes {start} to {end} are not sample {i} ({error}); the file changed "
            f"since it was indexed: restore it, or run python -m data.shards {shard.path}"
        ) from error
    return sample


def write_index(shards: Iterable[Shard]) -> None:
    """Put the shards into the `index.json` beside them, in one step.

    Entries of other shards that exist stay. Raises ValueError if the index there is damaged.
    """
    by_directory: dict[Path, dict[str, Shard]] = {}
    for shard in shards:
        by_directory.setdefault(shard.path.parent, {})[shard.path.name] = shard
    for directory, new in by_directory.items():
        entries = {
            name: {"size": shard.size, "sha256": shard.sha256, "offsets": shard.offsets}
            for name, shard in (_read_index(directory) | new).items()
            if shard.path.is_file()
        }
        temporary = directory / f".{INDEX}.tmp"
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({"shards": entries}, file, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / INDEX)
        _sync_directory(directory)


def split_name(name: str) -> tuple[str, str] | None:
    """Split a member's name into key and lower-case suffix where webdataset does.

    That is the first dot of the last part: `a.b/c.d.PNG` gives `("a.b/c", "d.png")`. None for what
    belongs to no sample: names without a dot, hidden files (such as the `._` twins that macOS
    adds) and webdataset's own `__meta__` members.
    """
    directory, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    first = name.partition("/")[0]
    if (
        not stem
        or not suffix
        or (len(first) >= 4 and first.startswith("__") and first.endswith("__"))
    ):
        return None
    return f"{directory}{slash}{stem}", suffix.lower()


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    for member in tar:
        split = split_name(member.name) if member.isreg() else None
        if split is not None:
            yield *split, member


def _checked(samples: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    previous = None
    for sample in samples:
        key = sample["__key__"]
        if split_name(f"{key}.png") != (key, "png"):
            raise ValueError(
                f"key {key!r} would not survive webdataset, which cuts a name at the first dot of "
                "its last part and skips folders like '__x__'; replace the dots, rename the folder"
            )
        if key == previous:
            raise ValueError(
                f"two neighbouring samples have the key {key!r} and would be read as one; "
                "give every sample its own key"
            )
        previous = key
        yield sample


def _write_shard(samples: Iterable[Mapping[str, Any]], path: Path, compress: bool) -> Shard:
    gzip = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS) if compress else None

    def pack(content: bytes, flush: int = zlib.Z_FULL_FLUSH) -> bytes:
        return gzip.compress(content) + gzip.flush(flush) if gzip else content

    with path.open("wb") as file:
        file.write(pack(b""))  # the gzip header
        offsets = []
        for sample in samples:
            offsets.append(file.tell())
            file.write(pack(_tar_blocks(sample)))
        offsets.append(file.tell())
        file.write(pack(bytes(2 * _BLOCK), zlib.Z_FINISH))  # the end of the archive
        file.flush()
        os.fsync(file.fileno())
    size, sha256 = path.stat().st_size, _sha256(path)
    return Shard(path=path, size=size, sha256=sha256, offsets=tuple(offsets))


def _tar_blocks(sample: Mapping[str, Any]) -> bytes:
    from webdataset.writer import TarWriter  # here: it imports torch, which reading does without

    buffer = io.BytesIO()
    # pax allows keys of any length and alphabet, and writes plain ustar headers where those do
    with TarWriter(buffer, mtime=0, format="PAX_FORMAT") as writer:
        writer.write(dict(sample))
        end = writer.tarstream.offset
    return buffer.getvalue()[:end]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _read_index(directory: Path) -> dict[str, Shard]:
    path = directory / INDEX
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["shards"]
        return {
            name: Shard(
                path=directory / name,
                size=int(entry["size"]),
                sha256=str(entry["sha256"]),
                offsets=tuple(map(int, entry["offsets"])),
            )
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no index of shards ({error!r}); "
            "delete it and run python -m data.shards on the shards"
        ) from error


def _check(shard: Shard, verify: bool) -> Shard:
    path = shard.path
    way_out = (
        "it is truncated, damaged or was replaced: restore it, or if it is meant to differ, "
        f"run python -m data.shards {path}"
    )
    size = path.stat().st_size
    if size != shard.size:
        raise ValueError(f"shard {path} has {size} bytes, {INDEX} says {shard.size}; {way_out}")
    if verify and (sha256 := _sha256(path)) != shard.sha256:
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
        print(f"{shard.path}: {shard.samples} samples, {shard.size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
