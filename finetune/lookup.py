"""Look-ups over a file of features: the nearest of a sample or an image, and near-duplicates.

    python -m finetune.lookup neighbours OUT.parquet --key KEY [--k 10] [--json]
    python -m finetune.lookup neighbours OUT.parquet --image FILE --weights OUT.safetensors
    python -m finetune.lookup duplicates OUT.parquet [--threshold 0.98] [--json]

Both are exact, by cosine, after whitening on the file itself, for untrained encoders as for trained
ones. On the 1,164 test drawings of the embedded data set, each with three altered copies, and the
encoder of the quickstart, pairs past 0.98 chain 3,111 of the 4,656 samples into one group, 274 if
features are only centred; whitened, the largest group has 6, and 1,107 of 1,173 groups are of one
drawing. The nearest drawing is of the same motif for 0.67 of those that have one, 0.54 without.
Copies that were resized to 56 px are all found; of those in JPEG of quality 60 a tenth, 0.81 past
0.9; of those shifted by two pixels none, a quarter past 0.9.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from jaxtyping import Float, Int
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor
from torch.nn import functional as F

from fcmae.run.config import run_program
from fcmae.weights.timm_models import load_timm
from finetune.frozen.feature_file import FeatureTable
from finetune.frozen.neighbours import neighbours
from finetune.frozen.whitening import whitening
from finetune.labels.inference import read_image
from finetune.models.backbone import sha256_of
from finetune.models.pooling import pooled

RIDGE = 0.03  # of the mean variance: more than for probes, since files may have few rows
ROUNDING = 1e-6  # of a cosine in float32: equal features reach the threshold 1
SLICE = 256  # rows that are compared at once with a part of the file


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The samples that are nearest to one of them, or to an image."""

    table: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.parquet")]
    """What finetune.embed wrote."""
    key: str | None = None
    """The sample whose neighbours are wanted."""
    url: str | None = None
    """Its shard, where several have the key."""
    image: Path | None = None
    """Or an image."""
    weights: Path | None = None
    """For an image: the weights that the features were made with."""
    k: int = 10
    """How many samples to name, the nearest ones."""
    json: bool = False
    """Print JSON lines in place of a table."""


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Groups of near-duplicates: samples that are joined by chains of near pairs."""

    table: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.parquet")]
    """What finetune.embed wrote."""
    threshold: float = 0.98
    """Cosine from which on a pair is near; 1 for equal features, 0.9 for many altered copies."""
    json: bool = False
    """Print JSON lines in place of a table."""


class Whitening:
    """Zero mean and unit covariance, both measured on all rows of a file."""

    def __init__(self, table: FeatureTable) -> None:
        sums = torch.zeros(())
        products = torch.zeros(())
        for _, part in table.features():
            x = part.double()
            sums, products = sums + x.sum(0), products + x.T @ x
        mean = sums / len(table)
        self.mean = mean.float()
        self.project = whitening(products / len(table) - torch.outer(mean, mean), RIDGE).float()

    def __call__(self, x: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """Rows of length one, whose products are cosines."""
        return F.normalize((x - self.mean) @ self.project, dim=1)


def nearest(
    table: FeatureTable, query: Float[Tensor, " d"], k: int, without: int | None = None
) -> list[tuple[float, int]]:
    """Cosine and row of the `k` samples nearest to `query`, nearest first.

    Args:
        without: a row that does not count, that of the query itself.

    Raises:
        ValueError: there are not as many.
    """
    others = len(table) - (without is not None)
    if not 1 <= k <= others:
        raise ValueError(f"k={k} must lie between 1 and the {others} samples to choose from")
    whiten, best = Whitening(table), list[tuple[float, int]]()
    for rows, part in table.features():
        found = neighbours(whiten(query[None]), whiten(part), min(k + 1, len(part)))
        cosines, numbers = found[0][0].tolist(), rows[found[1][0]].tolist()
        best += [pair for pair in zip(cosines, numbers, strict=True) if pair[1] != without]
        best = sorted(best, key=lambda pair: (-pair[0], pair[1]))[:k]
    return best


def duplicates(table: FeatureTable, threshold: float) -> list[list[int]]:
    """Rows of each group of near-duplicates, the largest group first.

    Compares all pairs, a part of the file with another at a time.

    Raises:
        ValueError: the threshold is no such cosine.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold:g} must be a cosine above 0 and up to 1")
    whiten, root = Whitening(table), torch.arange(len(table))
    for rows, part in table.features():
        left = whiten(part)
        for others, other in table.features():
            if others[0] > rows[0]:
                break
            right = whiten(other)
            for a, some in zip(rows.split(SLICE), left.split(SLICE), strict=True):
                near = some @ right.T >= threshold - ROUNDING
                near &= root[a][:, None] != root[others]  # the rest is joined already
                i, j = near.nonzero(as_tuple=True)
                join(root, a[i], others[j])
    groups = defaultdict[int, list[int]](list)
    for row, least in enumerate(root.tolist()):
        groups[least].append(row)
    return sorted((g for g in groups.values() if len(g) > 1), key=len, reverse=True)


def join(root: Int[Tensor, " n"], a: Int[Tensor, " p"], b: Int[Tensor, " p"]) -> None:
    """Join the components of each pair (a, b), in place.

    `root` has the least row of each row's component, before and after. Union-find, of all pairs at
    once: roots are hooked to the least one that they are paired with, then paths are shortened.
    """
    while (root[a] != root[b]).any():
        ends = torch.stack([root[a], root[b]])
        root.scatter_reduce_(0, ends.amax(0), ends.amin(0), "amin")
        while not torch.equal(root, root[root]):
            root.copy_(root[root])


def feature_of(image: Path, weights: Path, table: FeatureTable) -> Float[Tensor, " d"]:
    """The feature of an image, made as those of the table were.

    Raises:
        OSError, ValueError: no image, no weights, or not those of the table.
    """
    model, metadata = load_timm(weights)
    model.eval()
    if sha256_of(model, metadata) != table.made["weights_sha256"]:
        raise ValueError(
            f"{weights} are not the weights of {table.path}, which are {table.made['weights']} of"
            f" {table.made['model']}, step {table.made['step']}: give those, or embed the shards"
            " with these"
        )
    if not image.is_file():
        raise FileNotFoundError(f"image {image} does not exist")
    pixels: Any = table.made["pixels"]
    with torch.no_grad():
        return pooled(model, read_image(image, metadata, pixels), "last")[0]


def lines_of(args: Neighbours | Duplicates) -> tuple[str, list[dict[str, Any]]]:
    """A heading, and the samples found.

    Raises:
        OSError, ValueError: see `FeatureTable`, `nearest`, `duplicates` and `feature_of`; both or
            neither of --key and --image are given.
    """
    table = FeatureTable(args.table)
    if isinstance(args, Duplicates):
        groups = duplicates(table, args.threshold)
        found = [(row, {"group": n}) for n, rows in enumerate(groups, 1) for row in rows]
        title = (
            f"{len(groups)} groups, {len(found)} of {len(table)} samples, at cosines from"
            f" {args.threshold:g}"
        )
    else:
        if args.key is not None and (args.image, args.weights) == (None, None):
            row = table.find(args.key, args.url)
            query = table.feature(row)
        elif args.image is not None and args.weights is not None and args.key is args.url is None:
            row, query = None, feature_of(args.image, args.weights, table)
        else:
            raise ValueError(
                "give --key (with --url where several shards have it), or --image with the"
                f" --weights that {args.table} was made with"
            )
        found = [(i, {"cosine": c}) for c, i in nearest(table, query, args.k, row)]
        title = f"nearest to {args.key or args.image}"
    wanted = {row for row, _ in found}
    names = {row: names for row, names in enumerate(table.names()) if row in wanted}
    return title, [told | names[row] for row, told in found]


def show(title: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Print the heading and the lines as a table."""
    console = Console()
    console.print(Text(title))
    if lines:
        table = Table(*(Column(name, overflow="fold") for name in lines[0]))
        for line in lines:
            values = (f"{v:.4f}" if isinstance(v, float) else str(v) for v in line.values())
            table.add_row(*map(Text, values))
        console.print(table)


def main(argv: Sequence[str]) -> None:
    """Look up, and print what was found."""
    args = tyro.extras.subcommand_cli_from_dict(
        {"neighbours": Neighbours, "duplicates": Duplicates}, args=list(argv)
    )
    title, lines = lines_of(args)
    if args.json:
        for line in lines:
            print(json.dumps(line))
    else:
        show(title, lines)


if __name__ == "__main__":
    run_program(main)
