"""Make WebDataset shards from a folder of images.

    python scripts/make_shards.py FOLDER OUT_DIR

FOLDER holds either a sub-folder for each class (`FOLDER/CLASS/.../image.jpg`) or images alone,
without labels. The label of a class is its place in `OUT_DIR/classes.json`: the sorted names of the
first labelled folder, to which later ones, such as a test set, must keep. PNG and JPEG files are
taken, their bytes copied and not encoded again.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from PIL import Image
from tqdm import tqdm

from data.write import write_shards

SUFFIXES = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg"}  # of a file -> of the member


@dataclass(frozen=True, kw_only=True)
class MakeShards:
    """The command line."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Images: in one sub-folder for each class, or all in this folder and unlabelled."""
    out_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT_DIR")]
    """Where the shards, index.json and classes.json go. Shards there are never replaced."""
    shard_size: int = 1000
    """Images in a shard."""
    prefix: str = "train"
    """First part of the shards' names: PREFIX-000000.tar."""
    seed: int = 0
    """Seed of the order of the images, which mixes the classes."""
    compress: bool = False
    """Write .tar.gz: for images of 2 kB or so, whose size the tar headers would double."""
    max_broken: float = 0.01
    """Share of images that may fail to decode. They are skipped and named; more stop the run."""


def find_images(root: Path, seed: int) -> list[Path]:
    """List the images under `root`, in an order that depends on the seed and their names only.

    Hidden files and folders are left out. Raises ValueError if `root` is no folder or has no
    images, if it has some in itself and some in sub-folders, and if two would share a key.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; give the folder that holds the images")
    names = [
        path.relative_to(root)
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    if not names:
        raise ValueError(f"{root} holds no images; files named {', '.join(SUFFIXES)} are taken")
    flat = sum(len(name.parts) == 1 for name in names)
    if 0 < flat < len(names):
        raise ValueError(
            f"{root} holds {flat} images itself and {len(names) - flat} in sub-folders; put every "
            "image into the sub-folder of its class, or all of them into the folder itself"
        )
    by_key: dict[str, Path] = {}
    for name in names:
        other = by_key.setdefault(key_of(name), name)
        if other != name:
            raise ValueError(
                f"{root / other} and {root / name} would both have the key {key_of(name)!r}; "
                "rename one of them"
            )

    def rank(name: Path) -> str:
        return hashlib.sha256(f"{seed}/{name.as_posix()}".encode()).hexdigest()

    return sorted(names, key=rank)


def key_of(name: Path) -> str:
    """The key of an image: its path without suffix and, as webdataset cuts there, without dots."""
    return name.with_name(name.stem.replace(".", "_")).as_posix()


def choose_classes(names: list[Path], out_dir: Path) -> list[str]:
    """The class names in label order: those of `out_dir/classes.json`, else the sorted sub-folders.

    Empty for a flat folder. Raises ValueError for a sub-folder that an existing file does not name.
    """
    found = sorted({name.parts[0] for name in names if len(name.parts) > 1})
    file = out_dir / "classes.json"
    if not found or not file.exists():
        return found
    known = json.loads(file.read_text(encoding="utf-8"))
    unknown = [name for name in found if name not in known]
    if unknown:
        raise ValueError(
            f"sub-folder {unknown[0]!r} is no class of {file}; shards in one directory share their "
            "labels: rename the sub-folder or choose another directory"
        )
    return known


def read_samples(
    root: Path, names: list[Path], classes: list[str], max_broken: float
) -> Iterator[dict[str, Any]]:
    """Yield a sample for every image that decodes, and say which do not.

    Raises ValueError when more than the share `max_broken` of all images does not.
    """
    broken = 0
    for name in tqdm(names, unit=" images", disable=None):
        try:
            with Image.open(root / name) as image:
                image.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            broken += 1
            tqdm.write(f"skipped {root / name}: {error}", file=sys.stderr)
            if broken > max_broken * len(names):
                raise ValueError(
                    f"{broken} of {len(names)} images cannot be decoded, more than the share "
                    f"--max-broken {max_broken}; repair or remove them, or raise the share"
                ) from error
            continue
        sample: dict[str, Any] = {
            "__key__": key_of(name),
            SUFFIXES[name.suffix.lower()]: (root / name).read_bytes(),
        }
        if classes:
            sample["cls"] = classes.index(name.parts[0])
        yield sample


def main(args: MakeShards) -> None:
    """Write the shards and say what was written; raises what the functions above raise."""
    if not 0 <= args.max_broken < 1:
        raise ValueError(f"--max-broken {args.max_broken} must be a share, 0 <= share < 1")
    names = find_images(args.folder, args.seed)
    classes = choose_classes(names, args.out_dir)
    print(f"{len(names)} images, {len(classes) or 'no'} classes", flush=True)
    samples = read_samples(args.folder, names, classes, args.max_broken)
    shards = write_shards(samples, args.out_dir, args.prefix, args.shard_size, args.compress)
    if classes:
        text = json.dumps(classes, indent=2, ensure_ascii=False) + "\n"
        (args.out_dir / "classes.json").write_text(text, encoding="utf-8")
    total = sum(shard.samples for shard in shards)
    print(f"{total} images in {len(shards)} shards, {len(names) - total} skipped: {args.out_dir}")


if __name__ == "__main__":
    try:
        main(tyro.cli(MakeShards, description=__doc__))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
