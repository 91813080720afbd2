"""What the lineage leaves: tables on the terminal and in the page of results, a picture, a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fcmae.run.extras import extra
from fcmae.run.files import replacing, write_json, write_text
from fcmae.run.recipes import RECIPES
from fcmae.run.tables import print_table
from fcmae.run.terminal import beside, say
from finetune.lineage.config import LineageConfig
from finetune.lineage.rows import Row, keep, numbers, rows_of
from finetune.lineage.systems import SYSTEMS
from finetune.lineage.tables import HEADS, PICTURE, cells, with_tables


def write(config: LineageConfig, told: Mapping[str, Row]) -> None:
    """Print the table, and write the picture, the numbers and the page.

    Args:
        config: of the command.
        told: what is known from elsewhere, see `rows_of`.

    Raises:
        OSError: a file cannot be written.
        ValueError: a result is damaged, or the page of results has no place for the table.
        ModuleNotFoundError: the packages of the page are not installed.
    """
    rows = rows_of(config, told)
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


def to_results_page(config: LineageConfig, rows: Sequence[Row]) -> None:
    """Put the tables and the picture into the page of results, and the numbers beside it.

    Raises:
        OSError: it cannot be read or written.
        ValueError: it has no place for them.
    """
    keep(config, rows)
    page = RECIPES / "README.md"
    with replacing(RECIPES / PICTURE) as partial:
        draw(rows, partial)
    write_text(page, with_tables(page.read_text(encoding="utf-8"), config, rows))


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
