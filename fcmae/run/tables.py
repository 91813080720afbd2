"""Tables on standard output: drawn to the width of a terminal, elsewhere plain and whole."""

import sys
from collections.abc import Iterable, Sequence

from fcmae.run.display import DISPLAY, console_of, is_plain
from fcmae.run.terminal import say, visible

GAP = "  "  # between the columns of a plain table


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table; texts stand as they are, whatever brackets they have.

    Columns of numbers are set to the right. A terminal folds what is wider than it is; lines in a
    pipe, a file or CI are as long as they have to be.

    Args:
        title: stands above; empty for none.
        columns: their names.
        rows: the values of each, of which there are as many as columns.
    """
    heads = [visible(name) for name in columns]
    values = [list(row) for row in rows]
    right = [all(isinstance(row[i], int | float) for row in values) for i in range(len(heads))]
    cells = [[shown(value) for value in row] for row in values]
    if is_plain(sys.stdout):
        say(*([visible(title)] if title else []), *plain_lines(heads, cells, right))
    else:
        draw(visible(title), heads, cells, right)


def shown(value: object) -> str:
    """A value as a table shows it: four decimals of a number, and a word for none."""
    if isinstance(value, float):
        return f"{value:.4f}"
    return "not defined" if value is None else visible(value)


def plain_lines(
    heads: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]
) -> list[str]:
    """A line for the names of the columns, and one for each row, all columns equally wide."""
    from rich.cells import cell_len  # letters of some languages take two places

    rows = [heads, *cells]
    widths = [max(cell_len(row[i]) for row in rows) for i in range(len(heads))]

    def padded(cell: str, width: int, to_right: bool) -> str:
        blank = " " * (width - cell_len(cell))
        return blank + cell if to_right else cell + blank

    return [GAP.join(map(padded, row, widths, right)).rstrip() for row in rows]


def draw(
    title: str, heads: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]
) -> None:
    """Draw a table in the terminal."""
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(
        *(
            Column(Text(head), overflow="fold", justify="right" if to_right else "left")
            for head, to_right in zip(heads, right, strict=True)
        ),
        title=Text(title) if title else None,
        title_justify="left",
    )
    for row in cells:
        table.add_row(*map(Text, row))
    with DISPLAY.lock:
        DISPLAY.close()  # the bars come back with what happens next
        console_of(sys.stdout).print(table)
