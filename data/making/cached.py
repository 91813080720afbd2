"""Folders and tables of images in place of shards: they become shards once, in the cache.

The shards lie in `CACHE/made/NAME-HASH`, where the hash is one of the paths, sizes and times of all
files: other images make other shards, and what a kill has left is gone on with.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from data.config import Encoding, SourceConfig, StoredConfig
from data.making.entries import Entry
from data.making.listing import find_entries
from data.making.make import MakeShards, make
from data.making.tables.rows import READERS
from data.shards.cache import locked
from data.shards.index import made_of
from data.shards.reading import open_shards
from fcmae.run.files import text_sha256
from fcmae.run.terminal import say
from fcmae.run.waiting import counted, waiting

TARS = (".tar", ".tar.gz")


def as_shards(
    spec: str | Sequence[str],
    source: SourceConfig,
    stored: StoredConfig | None = None,
    max_broken: float = 0.01,
) -> list[str]:
    """The patterns of shards that patterns, folders and tables of images stand for.

    Args:
        spec: Patterns of shards, as `data.shards.patterns.expand` takes them, which stay as they
            are; folders of images; tables of images.
        source: Where the cache is.
        stored: What the values in the files mean, for the statistics of the shards.
        max_broken: The share of images that may fail to decode.

    Raises:
        OSError: Images cannot be read, or the cache cannot be written.
        ValueError: A folder has no images, or is divided into splits; too many are broken.
    """
    words = [spec] if isinstance(spec, str) else spec
    return [
        str(made(Path(word), source, stored or StoredConfig(), max_broken) / "train-*.tar")
        if is_of_images(Path(word))
        else word
        for word in words
    ]


def is_of_images(path: Path) -> bool:
    """Whether a path is that of a table, or of a folder without shards."""
    if path.is_dir():
        return not any(file.name.endswith(TARS) for file in path.iterdir())
    return path.suffix.lower() in READERS and path.is_file()


def made(path: Path, source: SourceConfig, stored: StoredConfig, max_broken: float) -> Path:
    """The folder of the shards of a folder or a table, which are made if they are not there."""
    with waiting(f"listing the images of {path}"):
        entries = find_entries(path, "path", None).entries
    splits = sorted({entry.split for entry in entries if entry.split is not None})
    if splits:
        raise ValueError(
            f"{path} is divided into {', '.join(splits)}: name the folder of one, such as"
            f" {path / splits[-1]}, or make shards of all by fcmae shards make {path} OUT_DIR"
        )
    looking = counted(entries, "checking whether images have changed", len(entries), "images")
    facts = [repr(asdict(stored)), *(fact_of(entry) for entry in looking)]
    sha256 = text_sha256("\n".join(facts))
    out = source.cache.expanduser() / "made" / f"{path.resolve().name[:40]}-{sha256[:16]}"
    with locked(out.with_name(f"{out.name}.lock")):  # one process of a node makes them
        if not made_of(out):
            say(f"{path}: {len(entries)} images become shards, once, in {out}", flush=True)
            encoding = Encoding(**asdict(stored))
            make(MakeShards(source=path, out_dir=out, encoding=encoding, max_broken=max_broken))
    broken = len(entries) - sum(shard.samples for shard in open_shards(f"{out}/train-*.tar"))
    if broken > max_broken * len(entries):  # they were made where more was allowed
        raise ValueError(
            f"{broken} of {len(entries)} images of {path} cannot be decoded, more than the share"
            f" --data.max_bad_fraction {max_broken}; repair or remove them, or raise the share"
        )
    return out


def fact_of(entry: Entry) -> str:
    """What changes when the file of an image does."""
    status = entry.path.stat()
    return f"{entry.path.resolve()} {entry.key} {status.st_size} {status.st_mtime_ns}"
