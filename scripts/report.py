"""Print the closing table of the quickstart: `python scripts/report.py runs/quickstart`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from fcmae.run.config import run_program
from fcmae.run.json_files import read_json
from fcmae.run.ranges import checked
from fcmae.run.terminal import say


@dataclass(frozen=True, kw_only=True)
class Report:
    """Print the closing table of a finished quickstart."""

    run: Annotated[Path, tyro.conf.Positional]
    """The directory of the quickstart's runs."""


def cell(path: Path) -> str:
    """Format the mean and the standard deviation of a test accuracy over the probe's seeds.

    Raises:
        ValueError: the result is damaged.
        OSError: it is missing.
    """
    mean, std = numbers(path, ("test_accuracy", "mean"), ("test_accuracy", "std"))
    return f"{mean:.3f} ± {std:.3f}"


def numbers(path: Path, *places: tuple[str, ...]) -> list[float]:
    """Read numbers of a result, each by the keys that lead to it.

    Raises:
        ValueError: the result is damaged.
        OSError: it is missing.
    """
    result: Any = read_json(path, dict)
    try:
        return [float(reduce(getitem, place, result)) for place in places]
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged: it lacks numbers of a result; make it again"
        ) from error


def main(argv: Sequence[str]) -> None:
    """Print the table.

    Raises:
        ValueError: a result is damaged.
        OSError: a result is missing.
    """
    run = checked(tyro.cli(Report, description=Report.__doc__, args=list(argv))).run
    table = Table(title="Test accuracy on rendered emoji artwork, 9 classes")
    for column in ("features", "linear probe", "k-NN"):
        table.add_column(column)
    for name in ("random", "pretrained"):
        table.add_row(
            f"{name} encoder", *(cell(run / f"{name}-{p}.json") for p in ("linear_probe", "knn"))
        )
    baselines = numbers(run / "baselines.json", ("raw_pixels",), ("hog",), ("majority",))
    for name, accuracy in zip(("raw pixels, 32 px", "HOG", "majority"), baselines, strict=True):
        table.add_row(name, f"{accuracy:.3f}", "")
    Console().print(table)
    say("Mean ± standard deviation over 3 probe seeds; the lower rows are linear too.")
    pictures = sorted((run / "pictures").glob("*.png"))
    say(f"Reconstructions: {pictures[-1] if pictures else 'none drawn'}")
    say(f"Encoder for timm: {run / 'encoder.safetensors'}")


if __name__ == "__main__":
    run_program(main)
