"""Shards of the ELPV data set: 2,624 electroluminescence photographs of solar cells, grey, 300 px.

    python -m data.elpv datasets/elpv

The photographs come with PyPI's `elpv-dataset` (extra `elpv`) under CC BY-NC-SA 4.0: make shards of
them for yourself, do not pass them on. Source: Buerhop-Lutz et al., *A Benchmark for Visual
Identification of Defective Solar Cells in Electroluminescence Imagery*, EU PVSEC 2018.

Cells follow each other as they lie in their modules, so neighbours in the list look alike. The
split is by blocks of 36 rows, every fourth of them for the test, and `block` in the json member
keeps a block together when training data is held out. `cls` is 1 for a cell that is defective with
a probability of a half or more; `probability` (0, 1/3, 2/3, 1) and `type` (mono, poly) are in the
json member too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import tyro

from data.shards.writing import write_shards
from fcmae.run.files import write_json

CLASSES = ("functional", "defective")
BLOCK = 36  # rows, about a module's worth of cells
TEST_EVERY = 4  # blocks
TRAIN_SHARD = 500  # samples


@dataclass(frozen=True, kw_only=True)
class Elpv:
    """Write train and test shards of the ELPV data set."""

    out: Annotated[Path, tyro.conf.Positional]
    """The folder for them."""


def samples(test: bool) -> Iterator[dict[str, Any]]:
    """The samples of one side of the split, in the order of the data set's list.

    Raises:
        ModuleNotFoundError: without the extra `elpv`.
    """
    try:
        root = resources.files("elpv_dataset") / "data"
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the ELPV data set needs the extra: pip install 'fcmae[elpv]'"
        ) from error
    for row, line in enumerate((root / "labels.csv").read_text(encoding="utf-8").splitlines()):
        path, probability, kind = line.split()
        block = row // BLOCK
        if (block % TEST_EVERY == TEST_EVERY - 1) == test:
            yield {
                "__key__": Path(path).stem,
                "png": (root / path).read_bytes(),
                "cls": int(float(probability) >= 0.5),
                "json": {"probability": float(probability), "type": kind, "block": block},
            }


def build(config: Elpv) -> None:
    """Write the shards, and say what is in them.

    Raises:
        FileExistsError: there are some already.
        ModuleNotFoundError: see `samples`.
    """
    for name, test in (("train", False), ("test", True)):
        side = list(samples(test))
        write_shards(side, config.out, name, len(side) if test else TRAIN_SHARD)
        defective = sum(sample["cls"] for sample in side)
        print(f"{config.out}/{name}-*.tar: {len(side)} cells, {defective} of them defective")
    write_json(config.out / "classes.json", CLASSES, compact=True)


def main(argv: Sequence[str]) -> None:
    """Write the shards that the command line asks for; raises as `build`."""
    build(tyro.cli(Elpv, description=Elpv.__doc__, args=list(argv)))
