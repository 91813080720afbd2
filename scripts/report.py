"""The quickstart's closing table: `python scripts/report.py runs/quickstart`."""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table


def cell(path: Path) -> str:
    """Mean and spread of the test accuracy over probe seeds."""
    accuracy = json.loads(path.read_text())["test_accuracy"]
    return f"{accuracy['mean']:.3f} ± {accuracy['std']:.3f}"


def main(run: Path) -> None:
    """Print the table of a finished quickstart."""
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
    main(Path(sys.argv[1]))
