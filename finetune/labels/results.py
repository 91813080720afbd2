"""The result of a program: mean and spread over seeds, a JSON file, a table on the terminal."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcmae.run.files import write_json
from fcmae.run.tables import print_table
from fcmae.run.terminal import beside, say

Picture = tuple[Path, Callable[[Path], None]]  # where it goes, and what draws it there


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation of one value a seed, and the values."""
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "values": list(values),
    }


def draw_beside(picture: Picture, out: Path) -> None:
    """Draw a picture of numbers that `out` has already; a failure is told in a line."""
    path, draw = picture
    with beside(path, out):
        draw(path)


def report(
    name: str,
    result: dict[str, Any],
    out: Path,
    *,
    draw: Picture | None = None,
    then: str = "",
) -> None:
    """Write the result as JSON, print it as tables, draw; for the main process alone.

    Args:
        name: of the method, for the title.
        result: values by name, among them `model` and `weights`; spreads over seeds as `spread`
            gives them; under `per_class` values by name of each class. Other tables in it, and
            the matrices under `confusion`, are written but not printed.
        out: the JSON file.
        draw: a picture.
        then: the command that may come next.

    Raises:
        OSError: `out` cannot be written.
    """
    write_json(out, result)
    with beside("the table", out):
        if per_class := result.get("per_class"):
            columns = ["class", *next(iter(per_class.values()))]
            print_table("", columns, ([name, *row.values()] for name, row in per_class.items()))
        values = []
        for key, value in result.items():
            if isinstance(value, dict) and "mean" in value:
                seeds = len(value["values"])
                value = f"{value['mean']:.4f} +- {value['std']:.4f} over {seeds} seeds"
            elif isinstance(value, float):
                value = f"{value:.4f}"
            if not isinstance(value, dict) and key != "confusion":  # else a table of its own
                values.append([key, value])
        title = f"{name}: {result['model']}, weights {result['weights']}"
        print_table(title, ["field", "value"], values)
    if draw is not None:
        draw_beside(draw, out)
    say(f"written: {out}")
    if then:
        say(f"next: {then}")
