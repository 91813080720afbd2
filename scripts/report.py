"""Print the closing table of the quickstart: `python scripts/report.py runs/quickstart`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from fcmae.run.config import run_program
from fcmae.run.ranges import checked


@dataclass(frozen=True, kw_only=True)
class Report:
    """Print the closing table of a finished quickstart."""

    run: Annotated[Path, tyro.conf.Positional]
    """The directory of the quickstart's runs."""


def cell(path: Path) -> str:
    """Format the mean and the standard deviation of a test accuracy over the probe's seeds."""
    accuracy = json.loads(path.read_text())["test_accuracy"]
    return f"{accuracy['mean']:.3f} ± {accuracy['std']:.3f}"


def main(argv: Sequence[str]) -> None:
    """Print the table.

    Raises:
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
    baselines = json.loads((run / "baselines.json").read_text())
    for key, name in (
        ("raw_pixels", "raw pixels, 32 px"),
        ("hog", "HOG"),
        ("majority", "majority"),
    ):
        table.add_row(name, f"{baselines[key]:.3f}", "")
    console = Console()
    console.print(table)
    console.print("Mean ± standard deviation over 3 probe seeds; the lower rows are linear too.")
    pictures = sorted((run / "pictures").glob("*.png"))
    console.print(f"Reconstructions: {pictures[-1] if pictures else 'none drawn'}", soft_wrap=True)
    console.print(f"Encoder for timm: {run / 'encoder.safetensors'}", soft_wrap=True)


if __name__ == "__main__":
    run_program(main)
