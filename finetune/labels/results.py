"""The result of a program: mean and spread over seeds, a JSON file, a table on the terminal."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from fcmae.run.files import write_json


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation of one value a seed, and the values."""
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "values": list(values),
    }


@contextmanager
def beside(out: Path, what: str) -> Iterator[None]:
    """Make something that the numbers in `out`, which are written, do not depend on.

    An error of it, whatever it is, is told in a line, and costs nothing else.
    """
    try:
        yield
    except Exception as error:  # of a library, which may raise anything
        print(f"{what} cannot be made ({type(error).__name__}: {error}); {out} has the numbers")


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table on the terminal; texts stand as they are, whatever brackets they have."""
    table = Table(*(Column(Text(name), overflow="fold") for name in columns), title=Text(title))
    for row in rows:
        table.add_row(*(Text(shown(value)) for value in row))
    Console().print(table)


def shown(value: object) -> str:
    """A value as a table shows it: four decimals of a number, and a word for none."""
    if isinstance(value, float):
        return f"{value:.4f}"
    return "not defined" if value is None else str(value)


def report(
    name: str,
    result: dict[str, Any],
    out: Path,
    *,
    draw: Callable[[], None] | None = None,
    then: str = "",
) -> None:
    """Write the result as JSON, print it as tables, draw; for the main process alone.

    Args:
        name: of the method, for the title.
        result: values by name, among them `model` and `weights`; spreads over seeds as `spread`
            gives them; under `per_class` values by name of each class. Other tables in it are
            written but not printed.
        out: the JSON file.
        draw: draws pictures.
        then: the command that may come next.

    Raises:
        OSError: `out` cannot be written.
    """
    write_json(out, result)
    with beside(out, "the table"):
        if per_class := result.get("per_class"):
            columns = ["class", *next(iter(per_class.values()))]
            print_table("", columns, ([name, *row.values()] for name, row in per_class.items()))
        values = []
        for key, value in result.items():
            if isinstance(value, dict) and "mean" in value:
                seeds = len(value["values"])
                value = f"{value['mean']:.4f} +- {value['std']:.4f} over {seeds} seeds"
            if not isinstance(value, dict):  # else a table of its own
                values.append([key, value])
        title = f"{name}: {result['model']}, weights {result['weights']}"
        print_table(title, ["field", "value"], values)
    if draw is not None:
        with beside(out, "the picture"):
            draw()
    print(f"written: {out}")
    if then:
        print(f"next: {then}")
