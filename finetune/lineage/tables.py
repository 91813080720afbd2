"""The tables of the lineage: what systems have come to, and where their ideas stand in code."""

from collections.abc import Iterator, Sequence

from fcmae.run.recipes import RECIPES
from finetune.lineage.code_places import place_of
from finetune.lineage.config import LineageConfig
from finetune.lineage.rows import Row
from finetune.lineage.systems import SYSTEMS

HEADS = ("system", "year", "parameters", "GFLOPs", "trained/s", "from scratch", "pretrained", "h")
PICTURE = "lineage.png"  # beside the page of results


def cells(rows: Sequence[Row]) -> Iterator[list[str]]:
    """Make the rows of the table."""
    for row in rows:
        rate = row.costs["trained_per_s"]
        yield [
            row.system.name,
            str(row.system.year),
            f"{row.costs['parameters']:,}",
            f"{row.costs['flops'] / 1e9:.3g}",
            "not timed" if rate is None else f"{rate:.3g}",
            row.cell("scratch"),
            row.cell("pretrained"),
            f"{row.hours:.2f}",
        ]


def with_tables(page: str, config: LineageConfig, rows: Sequence[Row]) -> str:
    """Put the tables into a page.

    Raises:
        ValueError: it has no place for them.
    """
    begin, end = "<!-- lineage: begin -->", "<!-- lineage: end -->"
    before, opened, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"{RECIPES}/README.md lacks the lines {begin} and {end}, for the tables")
    hours = sum(row.hours for row in rows)
    part = f"{len(rows)} of {len(SYSTEMS)} systems so far, " if len(rows) < len(SYSTEMS) else ""
    lines = [
        f"{part}{config.image_size} px, {config.epochs:g} passes, {config.seeds} seeds,"
        f" {config.precision}, {hours:.1f} h in all:",
        "",
        *markdown(HEADS, cells(rows)),
        "",
        f"![Accuracy of each system against the FLOPs of an image]({PICTURE})",
        "",
        *markdown(("system", "what it brought", "where it stands in code"), ideas(rows)),
        "",
    ]
    return "\n".join((before + begin, "", *lines, end + after))


def markdown(heads: Sequence[str], rows: Iterator[list[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return [
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def ideas(rows: Sequence[Row]) -> Iterator[list[str]]:
    """What each system brought, with links to where it stands in this repository."""
    for row in rows:
        places = map(place_of, row.system.code)
        links = (f"[{p.name}](../../{p.file})" if p.ours else p.name for p in places)
        yield [row.system.name, row.system.brought, ", ".join(links)]
