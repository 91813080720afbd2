"""What the labels of a table mean: the numbers of classes, their names, or no label."""

import math
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from data.making.labels import DIGITS, is_whole, listed

UNSAID = {"na", "n/a", "none", "null", "nil", "?", "-", "unknown"}  # what people write for nothing
SEVERAL = re.compile(r"\s*[,;|/]\s*")  # between labels in one cell


def understand_labels(
    labels: Sequence[Any], column: str, named: bool
) -> tuple[list[str | int | None], list[str]]:
    """Take a column of labels for the numbers of classes if all can be that, and else for names.

    Whole numbers that are not negative are numbers of classes, as is the text that a whole number
    is written as: 2, 2.0 and "2" are the same class. If one label is anything else, all of them are
    names, letter by letter, so that the texts "01" and "1" are two classes.

    Args:
        labels: The cells of the column. None, NaN, empty text and the text "nan" are no label.
        column: Its name, for the messages.
        named: Whether the table has said that they are names.

    Returns:
        The label of each row, or None; and a line for each thing that was assumed.
    """
    cells = [label.strip() if isinstance(label, str) else label for label in labels]
    present = [cell for cell in cells if not is_missing(cell)]
    notes: list[str] = []
    if len(present) < len(cells):
        notes.append(
            f"{len(cells) - len(present)} of {len(cells)} rows have no {column!r} (empty, null or"
            " nan): their images are taken without a label"
        )
    if not named and all(class_number(cell) is not None for cell in present):
        return [None if is_missing(cell) else class_number(cell) for cell in cells], notes
    if not named:
        notes += doubts(present, column, {text_of(cell) for cell in present})
    return [None if is_missing(cell) else text_of(cell) for cell in cells], notes


def doubts(present: Sequence[Any], column: str, names: AbstractSet[str]) -> list[str]:
    """Say of labels that are taken as names what else they may be, a line for each doubt.

    Args:
        present: The labels, none of which is missing.
        column: Their column.
        names: Their names.
    """
    lines = []
    numbers = sum(is_number(cell) for cell in present)
    if numbers:
        odd = next(cell for cell in present if class_number(cell) is None)
        lines.append(
            f"{str(odd)!r} in {column!r} is no number of a class (0, 1, ...), so all labels are"
            f" taken as names: {len(names)} classes"
        )
        if numbers == len(present):
            lines[0] += (
                ". If they are values, give the column another name, for --task.kind value"
                " --task.field NAME"
            )
    unsaid = sorted(name for name in names if name.lower() in UNSAID)
    if unsaid:
        lines.append(
            f"{listed(unsaid)} in {column!r} is taken as the name of a class: leave the cell empty"
            " if it means that the class is not known"
        )
    several = sorted(name for name in names if names & set(SEVERAL.split(name)) - {name})
    if several:
        lines.append(
            f"{several[0]!r} in {column!r} is taken as the name of one class: for several labels of"
            " an image, write lists into a column of another name, for --task.kind labels"
        )
    return lines


def text_of(label: object) -> str:
    """The name that a label is: a whole number is written without a point."""
    number = None if isinstance(label, str | bool) else class_number(label)
    return str(label if number is None else number)


def refuse_lists(labels: Sequence[Any], column: str, table: Path) -> None:
    """Check that each cell of a column holds one label at most.

    Raises:
        ValueError: A label is a list or an object, perhaps as text.
    """
    for number, cell in enumerate(labels, 1):
        text = cell.strip() if isinstance(cell, str) else ""
        if isinstance(cell, dict | list) or (text.startswith("[") and text.endswith("]")):
            raise ValueError(
                f"{table}: row {number} has several values in {column!r}, {cell}, which are no"
                " class: give the column another name than `label`, and do not name it with"
                " --label-column, so that it goes into the json member, for --task.kind labels"
                " --task.field NAME"
            )


def is_missing(cell: object) -> bool:
    """Whether a cell holds no label."""
    if isinstance(cell, float):
        return math.isnan(cell)
    return cell is None or (isinstance(cell, str) and cell.lower() in ("", "nan", "<na>"))


def class_number(cell: object) -> int | None:
    """The number of a class that a cell holds; None if it holds none."""
    if isinstance(cell, str):
        whole = cell.removesuffix(".0")
        return int(whole) if is_whole(whole) else None
    if isinstance(cell, int | float) and 0 <= cell < 10**DIGITS and cell == int(cell):
        return int(cell)
    return None


def is_number(cell: object) -> bool:
    """Whether a cell holds a number, perhaps as text."""
    try:
        float(str(cell))
    except ValueError:
        return False
    return True
