"""The data sets of the tables, and a few images of each, on which a dry run shows that it works."""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from data.shards.addresses import directory_of
from data.shards.patterns import expand
from data.shards.reading import open_shards, read_sample
from data.shards.writing import write_shards
from fcmae.run.config import completed
from fcmae.run.recipes import PROGRAMS
from fcmae.run.yaml_files import read_yaml
from finetune.training.pretraining import PretrainConfig

TINY = 8  # images of each class in a dry run


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Labelled images in shards, and the recipe that pretrains on them."""

    name: str
    """Its name, which files and marks of the page have."""
    title: str
    """What it is, for people."""
    recipe: str
    """The recipe of the pretraining."""
    fetch: str | None = None
    """Module that writes the shards, if they are not in the repository."""
    train: str
    """Pattern of the training shards."""
    test: str
    """Pattern of the test shards."""
    group: str = ""
    """Field of a sample's json that names its group; empty where each sample is one by itself."""
    metric: str
    """The measure by which runs are compared."""
    tuning: Mapping[str, Any] = field(default_factory=dict)
    """Flags of fine-tuning, over those of its recipe; the search, which chooses, takes none."""

    @cached_property
    def images(self) -> int:
        """Number of training images."""
        return samples_in(self.train)

    @cached_property
    def unseen(self) -> int:
        """Number of test images."""
        return samples_in(self.test)

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The fields of its recipe by dotted names, those that it leaves out among them."""
        return completed(read_yaml(PROGRAMS / self.recipe), PretrainConfig)

    @property
    def batch(self) -> int:
        """Images of a step in its recipe."""
        return self.fields["optim.batch_size"]

    @property
    def base_lr(self) -> float:
        """Peak learning rate in its recipe, for a batch of 256."""
        return self.fields["optim.base_lr"]

    @property
    def one_term(self) -> dict[str, Any]:
        """The flags that leave the second term out, where its recipe has one."""
        name = "model.contrast.weight"
        return {name: 0.0} if self.fields[name] else {}

    def provide(self) -> None:
        """Write the shards, if a module does and they are not there.

        Raises:
            FileNotFoundError: they are not there, and nothing writes them.
            OSError: they could not be written.
        """
        folder = Path(self.train).parent
        if folder.is_dir():
            return
        if self.fetch is None:
            raise FileNotFoundError(f"{folder} does not exist: it comes with a checkout")
        done = subprocess.run([sys.executable, "-m", self.fetch, str(folder)], check=False)
        if done.returncode:
            raise OSError(f"python -m {self.fetch} {folder} failed; its lines say why")

    def labels(self) -> dict[str, Any]:
        """The flags of a program that learns from the labels."""
        return {"data": {"train": self.train, "test": self.test, "group": self.group}}

    def pixels(self) -> dict[str, Any]:
        """Channels and statistics of its recipe, as flags of a network without weights."""
        names = {"in_chans": "model.in_chans", "mean": "data.mean", "std": "data.std"}
        return {name: self.fields[field] for name, field in names.items()}


EMOJI = DataSet(
    name="emoji",
    title="Rendered emoji artwork",
    recipe="scripts/recipes/demo.yaml",
    train="data/demo/train-{000000..000003}.tar.gz",
    test="data/demo/test-000000.tar.gz",
    group="group",
    metric="accuracy",
)
GLYPHS = DataSet(
    name="glyphs",
    title="Capitals and digits of free fonts",
    recipe="scripts/recipes/glyphs.yaml",
    train="data/glyphs/train-{000000..000003}.tar.gz",
    test="data/glyphs/test-000000.tar.gz",
    group="group",
    metric="accuracy",
)
ELPV = DataSet(
    name="elpv",
    title="ELPV, photographs of solar cells",
    recipe="scripts/recipes/elpv.yaml",
    fetch="data.elpv",
    train="datasets/elpv/train-{000000..000003}.tar",
    test="datasets/elpv/test-000000.tar",
    group="block",
    metric="balanced_accuracy",
)
PARTS = DataSet(
    name="parts",
    title="Pictures of recurring parts",
    recipe="scripts/recipes/parts.yaml",
    fetch="data.parts",
    train="datasets/parts/train-{000000..000006}.tar",
    test="datasets/parts/test-{000000..000001}.tar",
    metric="accuracy",
    tuning={"optim.base_lr": 1.6e-2},
)
DATA_SETS = {data.name: data for data in (EMOJI, GLYPHS, ELPV, PARTS)}


def samples_in(spec: str) -> int:
    """How many samples shards have, by the index beside them.

    Raises:
        OSError, ValueError: the shards are not there, see `DataSet.provide`, or cannot be read.
    """
    return sum(shard.samples for shard in open_shards(spec, verify=False))


def tiny(data: DataSet, folder: Path) -> DataSet:
    """A data set of a few images of each class of another one, written into a folder.

    Args:
        data: the whole one, whose shards are there.
        folder: that the shards are in; those of an earlier call are kept.

    Raises:
        OSError, ValueError: the shards cannot be read.
    """
    sides = {}
    for side, spec in (("train", data.train), ("test", data.test)):
        out = folder / data.name
        sides[side] = str(out / f"{side}-000000.tar")
        if not Path(sides[side]).exists():
            write_shards(few(spec), out, side, 10_000)
    names = Path(directory_of(expand(data.train)[0])) / "classes.json"
    if names.is_file():
        shutil.copy(names, folder / data.name)
    return replace(data, **sides)


def few(spec: str) -> Iterator[dict[str, Any]]:
    """The first samples of each class of each shard, so that they are of several groups."""
    shards = open_shards(spec)
    share = -(-TINY // len(shards))
    for shard in shards:
        seen = Counter[str]()
        for place in range(shard.samples):
            sample = read_sample(shard, place)
            label = str(sample["cls"])
            seen[label] += 1
            if seen[label] <= share:
                yield {name: value for name, value in sample.items() if name != "__url__"}
