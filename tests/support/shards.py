"""Small labelled shards, and tars of any members."""

import io
import tarfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from data.shards.writing import write_shards
from tests.support.images import coloured, encoded


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """A tar of members with these names and contents, in this order."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_colours(
    folder: Path,
    name: str,
    n: int,
    *,
    shards: int = 1,
    labels: bool = True,
    wrong: float = 0.0,
    broken: Collection[int] = (),
) -> str:
    """Shards of `n` images whose colour tells which of three classes they are of.

    Each three in a row are of one `object`. Shards of this name that are there already are kept.

    Args:
        labels: whether the samples have any.
        wrong: the share of the labels that is drawn at random.
        broken: numbers of samples that are no image.

    Returns:
        The pattern of their paths.
    """
    generator = np.random.default_rng(n)
    drawn = [int(generator.integers(3)) if generator.random() < wrong else i % 3 for i in range(n)]

    def sample(i: int) -> dict[str, object]:
        record = {"tags": [i % 3, 2], "size": float(i % 3), "object": i // 3}
        content = b"nonsense" if i in broken else encoded(coloured(i))
        label = {"cls": drawn[i]} if labels else {}
        return {"__key__": f"s{i}", "png": content, "json": record, **label}

    if not list(folder.glob(f"{name}-*.tar")):
        write_shards((sample(i) for i in range(n)), folder, name, -(-n // shards))
    if shards == 1:
        return str(folder / f"{name}-000000.tar")
    return str(folder / f"{name}-{{000000..{shards - 1:06d}}}.tar")
