"""Reproduce the tables of few labels: scratch, FCMAE and timm's models.

    python scripts/reproduce.py                 # run what is missing, also after a stop
    python scripts/reproduce.py --sets emoji    # run one data set only
    python scripts/reproduce.py --table         # only write the tables, out of finished results

For each data set it pretrains without labels, converts, and fine-tunes and probes on a part of the
labels by `finetune.few_shot`: every model with `recipes/finetune/small.yaml`, over the same samples
and seeds. All runs are in runs/reproduce/. The table of a data set goes between its marks in
scripts/recipes/README.md; the old one stays while nothing is measured.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from fcmae.run.config import run_program
from fcmae.run.files import write_json, write_text
from fcmae.run.json_files import read_json
from fcmae.run.ranges import checked
from fcmae.run.terminal import say

ROOT = Path(__file__).parents[1]
RUNS = Path("runs/reproduce")
PAGE = Path("scripts/recipes/README.md")
LAUNCH = ("accelerate", "launch", "--quiet", "--num_processes", "1", "--num_machines", "1")
LAUNCH += ("--mixed_precision", "no", "--dynamo_backend", "no")
SMALL = "scripts/recipes/finetune/small.yaml"
BASELINES = ("resnet18", "vit_tiny_patch16_224", "convnext_atto")
SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set of the table."""

    name: str
    """Name of its directory and of its marks in the page of results."""
    title: str
    """Title of its table."""
    recipe: tuple[str, ...]
    """Recipe of the pretraining, and flags that change it."""
    fetch: str | None = None
    """Module that writes the shards, if they are not in the repository."""
    train: str
    """Brace pattern of the training shards."""
    test: str
    """Path of the test shard."""
    group: str
    """Field of a sample's json that names its group."""
    fraction: float
    """Share of the training labels that is used."""
    steps: int
    """Number of steps of each fine-tuning, chosen on held-out training data."""
    size: int
    """Side in pixels of the images for timm's models."""
    in_chans: int
    """Number of channels of the images."""
    mean: float
    """Mean of the pixels, on the scale 0 to 1."""
    std: float
    """Standard deviation of the pixels, on the scale 0 to 1."""
    metrics: tuple[str, ...]
    """Measures in the table; the first one selects."""

    @property
    def run(self) -> Path:
        """The directory of its runs."""
        return RUNS / self.name


SETS = (
    DataSet(
        name="elpv",
        title="ELPV, photographs of solar cells",
        recipe=("scripts/recipes/elpv.yaml",),
        fetch="data.elpv",
        train="datasets/elpv/train-{000000..000003}.tar",
        test="datasets/elpv/test-000000.tar",
        group="block",
        fraction=0.1,
        steps=200,
        size=128,
        in_chans=1,
        mean=0.598,
        std=0.163,
        metrics=("balanced_accuracy", "auc"),
    ),
    DataSet(
        name="emoji",
        title="Rendered emoji artwork",
        recipe=("scripts/recipes/demo.yaml", "--optim.steps", "4000"),
        train="data/demo/train-{000000..000003}.tar.gz",
        test="data/demo/test-000000.tar.gz",
        group="group",
        fraction=0.1,
        steps=600,
        size=64,
        in_chans=3,
        mean=0.5,
        std=0.25,
        metrics=("accuracy", "balanced_accuracy", "auc"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Reproduce the tables of few labels."""

    sets: tuple[Literal["elpv", "emoji"], ...] = ("elpv", "emoji")
    """The data sets to run."""
    table: bool = False
    """Only write the tables, out of finished results."""


def command(program: Sequence[str], run: Path, name: str) -> None:
    """Run a program, and add its seconds to those of earlier calls in run/seconds.json.

    Raises:
        SystemExit: the program failed, with its status.
    """
    began = time.monotonic()
    done = subprocess.run([*LAUNCH, *program], check=False)
    seconds = read(run / "seconds.json")
    seconds[name] = seconds.get(name, 0) + time.monotonic() - began
    write_json(run / "seconds.json", seconds)
    if done.returncode:
        sys.exit(done.returncode)


def read(path: Path) -> dict[str, Any]:
    """Read a JSON object; the result is empty if there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    return read_json(path, dict) if path.is_file() else {}


def make(data: DataSet) -> None:
    """Fetch a data set, pretrain, convert and fine-tune, except for what is complete.

    Raises:
        SystemExit: a program failed, with its status.
    """
    folder = Path(data.train).parent
    if data.fetch and not folder.exists():
        subprocess.run([sys.executable, "-m", data.fetch, str(folder)], check=True)
    run = data.run
    weights = run / "encoder.safetensors"
    if not weights.exists():
        pretrained = run / "pretrain"
        command(("pretrain.py", *data.recipe, "--run.dir", str(pretrained)), run, "pretrain")
        convert = (sys.executable, "-m", "fcmae.convert", str(pretrained), str(weights))
        subprocess.run(convert, check=True)
    shards = ("--data.train", data.train, "--data.test", data.test, "--data.group", data.group)
    protocol = ("-m", "finetune.few_shot", SMALL, *shards, "--seeds", str(SEEDS))
    protocol += ("--fractions", str(data.fraction), "--metric", data.metrics[0])
    protocol += ("--optim.steps", str(data.steps))
    ours = ("--weights", str(weights), "--out", str(run / "fcmae.json"))
    if not (run / "fcmae.json").exists():
        command((*protocol, *ours), run, "fcmae")
    images = ("--random.image_size", str(data.size), "--random.in_chans", str(data.in_chans))
    images += ("--random.mean", str(data.mean), "--random.std", str(data.std))
    for name in BASELINES:
        out = run / f"{name}.json"
        flags = ("--backbone", f"timm:{name}", "--methods", "finetune", "--out", str(out))
        if not out.exists():
            command((*protocol, *flags, *images), run, name)


def rows_of(data: DataSet) -> Iterator[list[str]]:
    """Make the rows of the complete results of a data set: model, method, measures."""
    starts = {
        "convnextv2_atto, random": ("fcmae", "random"),
        "convnextv2_atto, FCMAE": ("fcmae", "pretrained"),
        **{f"timm's {name}, random": (name, f"timm_{name}") for name in BASELINES},
    }
    for title, (folder, start) in starts.items():
        for method in ("probe", "finetune"):
            cells = sorted((data.run / folder).glob(f"*-{start}-{method}.json"))
            if len(cells) == SEEDS:
                measured = [read(cell)["measured"] for cell in cells]
                yield [
                    title,
                    method,
                    *(cell_of([m[key] for m in measured]) for key in data.metrics),
                ]


def cell_of(values: list[float]) -> str:
    """Format the mean and the standard deviation of values for a cell of the table."""
    from finetune.labels.results import spread  # here: it brings torch

    of_seeds = spread(values)
    return f"{of_seeds['mean']:.3f} ± {of_seeds['std']:.3f}"


def with_table(page: str, data: DataSet) -> str:
    """Put the table of a data set into a page, which stays as it is without results.

    Raises:
        ValueError: the page has no place for the table.
    """
    rows = list(rows_of(data))
    if not rows:
        say(f"nothing measured in {data.run}: the table of {data.name} stays as it is")
        return page
    hours = sum(read(data.run / "seconds.json").values()) / 3600
    names = ["AUC" if m == "auc" else m.replace("_", " ") for m in data.metrics]
    lines = [
        f"{data.title}, {100 * data.fraction:g} % of the training labels, {data.steps} steps,"
        f" {SEEDS} seeds, {hours:.1f} h:",
        "",
        f"| model | method | {' | '.join(names)} |",
        "|---" * (2 + len(names)) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
    begin, end = (f"<!-- reproduce {data.name}: {mark} -->" for mark in ("begin", "end"))
    before, opened, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"{PAGE} lacks the lines {begin} and {end}, between which a table goes")
    return "\n".join((before + begin, "", *lines, end + after))


def main(argv: Sequence[str]) -> None:
    """Run what is missing, then write the tables into the page of results.

    Raises:
        OSError: the page cannot be read or written.
        ValueError: the page has no place for a table.
        SystemExit: a program failed, with its status.
    """
    args = checked(tyro.cli(Reproduce, description=__doc__, args=list(argv)))
    os.chdir(ROOT)
    for data in (d for d in SETS if d.name in args.sets):
        if not args.table:
            make(data)
        write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8"), data))


if __name__ == "__main__":
    run_program(main)
