"""What the lineage leaves: tables on the terminal and in the page of results, a picture, a page."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fcmae.run.config import extra
from fcmae.run.files import replacing, write_json, write_text
from fcmae.run.recipes import RECIPES
from fcmae.run.tables import print_table
from fcmae.run.terminal import beside, say
from finetune.lineage.code_places import place_of
from finetune.lineage.config import LineageConfig
from finetune.lineage.rows import Row, rows_of
from finetune.lineage.systems import SYSTEMS

HEADS = ("system", "year", "parameters", "GFLOPs", "trained/s", "from scratch", "pretrained", "h")
PICTURE = "lineage.png"


def write(config: LineageConfig) -> None:
    """Print the table, and write the picture, the numbers and the page.

    Raises:
        OSError: a file cannot be written.
        ValueError: a result is damaged, or the page of results has no place for the table.
        ModuleNotFoundError: the packages of the page are not installed.
    """
    rows = rows_of(config)
    missing = [key for key in SYSTEMS if key not in {row.system.key for row in rows}]
    if missing:
        say(f"not in the table, since they have not been run: {', '.join(missing)}")
    write_json(config.out / "lineage.json", {row.system.key: numbers(row) for row in rows})
    with beside("the tables", config.out / "lineage.json"):
        print_table(f"accuracy at {config.image_size} px, {config.seeds} seeds", HEADS, cells(rows))
    picture = config.out / PICTURE
    with beside(picture, "the tables"):
        draw(rows, picture)
    with extra("report", "the page needs"):
        from finetune.lineage.page import page
    write_text(config.out / "report.html", page(config, rows))
    if config.results_page:
        to_results_page(config, rows)
    say(f"written: {config.out / 'lineage.json'}, {picture} and {config.out / 'report.html'}")


def numbers(row: Row) -> dict[str, Any]:
    """All numbers of a system."""
    scores = {
        origin: {**vars(score), "mean": score.mean, "std": score.std}
        for origin, score in row.scores.items()
    }
    return {"name": row.system.name, **row.costs, **scores}


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


def to_results_page(config: LineageConfig, rows: Sequence[Row]) -> None:
    """Put the tables and the picture into the page of results, between their marks.

    Raises:
        OSError: it cannot be read or written.
        ValueError: it has no place for them.
    """
    page = RECIPES / "README.md"
    with replacing(RECIPES / PICTURE) as partial:
        draw(rows, partial)
    write_text(page, with_tables(page.read_text(encoding="utf-8"), config, rows))


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
    lines = [
        f"{config.image_size} px, {config.epochs:g} passes, {config.seeds} seeds,"
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


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw accuracy against FLOPs: hollow points from scratch, filled ones pretrained."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    kinds = list(dict.fromkeys(system.kind for system in SYSTEMS.values()))
    for row in rows:
        colour = f"C{kinds.index(row.system.kind)}"
        x = row.costs["flops"] / 1e9
        for origin, score in row.scores.items():
            fill = colour if origin == "pretrained" else "white"
            axes.errorbar(x, score.mean, score.std, fmt="o", color=colour, mfc=fill, capsize=3)
        if row.scores:
            best = max(score.mean for score in row.scores.values())
            axes.annotate(row.system.name, (x, best), (4, 6), textcoords="offset points")
    for i, kind in enumerate(kinds):
        axes.plot([], [], "o", color=f"C{i}", label=kind)
    axes.set(xscale="log", xlabel="GFLOPs of an image", ylabel="accuracy")
    axes.set_title("Hollow: from scratch. Filled: pretrained.", fontsize="medium")
    axes.legend()
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=100)
