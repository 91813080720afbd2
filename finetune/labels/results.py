"""The result of a program: mean and spread over seeds, a JSON file, a table on the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fcmae.run.files import write_json


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation of one value a seed, and the values."""
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "values": list(values),
    }


def shown(value: object, digits: int = 4) -> str:
    """A value as a table shows it; None stands for a number that is not defined."""
    if value is None:
        return "not defined"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def report(name: str, result: dict[str, Any], out: Path) -> None:
    """Write the result as JSON and print it as a table; for the main process alone.

    Args:
        name: of the method, for the title.
        result: values by name, among them `model` and `weights`; spreads over seeds as `spread`
            gives them. Other tables in it are written but not printed.
        out: the JSON file.

    Raises:
        OSError: `out` cannot be written.
    """
    write_json(out, result)
    table = Table(title=f"{name}: {result['model']}, weights {result['weights']}")
    table.add_column("field")
    table.add_column("value")
    for key, value in result.items():
        if isinstance(value, dict) and "mean" not in value:
            continue  # a table of its own
        if isinstance(value, dict):
            value = f"{value['mean']:.4f} +- {value['std']:.4f} over {len(value['values'])} seeds"
        table.add_row(key, shown(value))
    Console().print(table)
