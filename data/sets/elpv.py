"""Shards of the ELPV data set: 2,624 electroluminescence photographs of solar cells, grey, 300 px.

    fcmae elpv datasets/elpv

The photographs come with the package `elpv-dataset` (extra `elpv`) under CC BY-NC-SA 4.0: make
shards of them for your own use, and do not pass them on. Source: Buerhop-Lutz et al.,
*A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence Imagery*,
EU PVSEC 2018.

The list follows the order of cells in their modules, so neighbours in the list look alike.
Therefore the split goes by blocks of 36 rows, of which every fourth is for the test, and `block` in
the json member keeps a block together when training data is held out. `cls` is 1 for a cell that is
defective with a probability of at least a half. The json member has this `probability`
(0, 1/3, 2/3, 1) and the `type` (mono, poly), too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import tyro

from data.shards.writing import write_shards
from fcmae.run.extras import extra
from fcmae.run.files import write_json
from fcmae.run.ranges import checked
from fcmae.run.terminal import say
from fcmae.run.waiting import counted

CLASSES = ("functional", "defective")
BLOCK = 36  # rows of the list, about as many as a module has cells
TEST_EVERY = 4  # one block in so many is for the test
TRAIN_SHARD = 500  # samples in a shard


@dataclass(frozen=True, kw_only=True)
class Elpv:
    """Write train and test shards of the ELPV data set."""

    out: Annotated[Path, tyro.conf.Positional]
    """The folder for the shards."""


def samples(test: bool) -> Iterator[dict[str, Any]]:
    """Yield the samples of one side of the split, in the order of the data set's list.

    Raises:
        ModuleNotFoundError: The extra `elpv` is not installed.
    """
    with extra("elpv", "the ELPV data set needs"):
        root = resources.files("elpv_dataset") / "data"
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
    """Write the shards and classes.json, and print what they hold.

    Raises:
        FileExistsError: The folder has such shards already.
        ModuleNotFoundError: The extra `elpv` is not installed.
    """
    for name, test in (("train", False), ("test", True)):
        side = list(counted(samples(test), f"reading cells to {name} on", unit="cells"))
        write_shards(side, config.out, name, len(side) if test else TRAIN_SHARD)
        defective = sum(sample["cls"] for sample in side)
        say(f"{config.out}/{name}-*.tar: {len(side)} cells, {defective} of them defective")
    write_json(config.out / "classes.json", CLASSES, compact=True)


def main(argv: Sequence[str]) -> None:
    """Write the shards as the command line says.

    Raises:
        FileExistsError, ModuleNotFoundError: See `build`.
    """
    build(checked(tyro.cli(Elpv, description=Elpv.__doc__, args=list(argv))))
