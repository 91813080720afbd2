"""What users choose of programs on frozen features; a help text shows it without torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fcmae.run.ranges import Batch, Count
from fcmae.run.secrets import public
from fcmae.run.threads import ThreadsConfig
from finetune.labels.config import InferenceConfig, LabelledData
from finetune.models.config import Pool, RandomConfig

TEMPERATURE = 0.07  # of the votes of nearest neighbours (Wu et al., CVPR 2018)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(ThreadsConfig):
    """What linear probing and k-NN share."""

    weights: str
    """Encoder weights: a run, or what else `python -m fcmae.convert` reads and tells of its images,
    such as timm:convnextv2_atto.fcmae; or none for the random initialisation."""
    data: LabelledData
    out: Path
    """The JSON file to write."""
    cache: Path | None = None
    """Directory where features are kept for the next program that needs the same ones."""
    pool: Pool = "last"
    """last: the last stage, averaged over positions. grid2, grid3: averaged over each of 2 x 2 or
    3 x 3 cells, side by side, which tell where things are. stages: the averages of all four stages
    side by side."""
    random: RandomConfig = field(default_factory=RandomConfig)
    seeds: Count = 3
    """Repetitions, each with its own held-out data and order; mean and spread are reported."""

    @property
    def next_command(self) -> str:
        """What may come after a probe of weights; empty after one of the random initialisation."""
        if self.weights == "none":
            return ""
        shards = f"--data.train {' '.join(self.data.train)} --data.test {' '.join(self.data.test)}"
        return public(
            f"fcmae finetune finetune/small --weights {self.weights}"
            f" {shards} --out {self.out.with_name('tuned.json')}"
        )


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(ThreadsConfig):
    """Features of every sample of shards, with its name, as a Parquet file.

    The same command goes on after a kill.
    """

    paths: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SHARDS OUT.parquet")
    ]
    """A folder or a table of images, or shards: paths, URLs or patterns; last the file to write."""
    weights: str
    """Encoder weights: a run, or what else `python -m fcmae.convert` reads and tells of its images,
    such as timm:convnextv2_atto.fcmae; or none for the random initialisation."""
    data: InferenceConfig = field(default_factory=InferenceConfig)
    pool: Pool = "last"
    """last: the last stage, averaged over positions. grid2, grid3: averaged over each of 2 x 2 or
    3 x 3 cells, side by side, which tell where things are. stages: the averages of all four stages
    side by side. Look-ups take images as the file tells."""
    random: RandomConfig = field(default_factory=RandomConfig)
    tiles: Literal["mean", "rows"] = "mean"
    """mean: one row a sample, the mean of its tiles. rows: with data.fit tiles, one row a tile,
    numbered from the top left in the column `tile`."""
    piece: Batch = 1024
    """Samples whose features are written at once: what a kill costs a process at most, and a row
    group of the file."""
