"""The page of the lineage: each system's idea and code, what it has come to, how its cost grows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import escape

from finetune.lineage import charts
from finetune.lineage.code_places import place_of
from finetune.lineage.config import LineageConfig
from finetune.lineage.costs import BATCH, RATIO
from finetune.lineage.rows import Row
from finetune.lineage.systems import SYSTEMS
from finetune.lineage.tables import HEADS, cells
from finetune.reporting.page import whole
from finetune.reporting.section import Section, render


def page(config: LineageConfig, rows: Sequence[Row]) -> str:
    """Make the HTML of the lineage.

    Args:
        config: of the command.
        rows: the systems that were measured.
    """
    sections = [line(), measured(config, rows), growth(rows), protocol(config, rows)]
    return whole("From LeNet-5 to ConvNeXt V2", "The lineage", sections)


def line() -> Section:
    """Tell the ideas of all systems in the order of their years, with the code of each."""
    published = [
        {"year": s.year, "model": s.top1[0], "accuracy": s.top1[1], "kind": s.kind}
        for s in SYSTEMS.values()
        if s.top1 is not None
    ]
    systems = [
        # escaped here: the lines of code stay lines
        (system, [(place, escape(place.text)) for place in map(place_of, system.code)])
        for system in SYSTEMS.values()
    ]
    return Section(
        name="line",
        title="Twenty-five years in twelve networks",
        body=render("lineage_line.html", systems=systems),
        charts={"lineage-published": charts.published()},
        data={"published": published},
    )


def measured(config: LineageConfig, rows: Sequence[Row]) -> Section:
    """Show what the systems have come to under one protocol."""
    scores = list(scores_of(rows))
    return Section(
        name="measured",
        title="The same images, the same training",
        body=render(
            "lineage_measured.html",
            size=config.image_size,
            seeds=config.seeds,
            heads=HEADS,
            rows=list(cells(rows)),
            drawn=bool(scores),
            gains=list(gains_of(rows)),
        ),
        charts={"lineage-scores": charts.scores()} if scores else {},
        data={"scores": scores},
    )


def scores_of(rows: Sequence[Row]) -> Iterator[Mapping[str, Any]]:
    """Make a point for each start of each system."""
    for row in rows:
        best = max((score.mean for score in row.scores.values()), default=None)
        for origin, score in row.scores.items():
            yield {
                "system": row.system.name,
                "kind": row.system.kind,
                "start": origin,
                "gflops": row.costs["flops"] / 1e9,
                "parameters": row.costs["parameters"],
                "accuracy": score.mean,
                "low": score.mean - score.std,
                "high": score.mean + score.std,
                "seeds": len(score.accuracies),
                "label": row.system.name if score.mean == best else "",
            }


def gains_of(rows: Sequence[Row]) -> Iterator[str]:
    """Say what pretraining has brought to each system."""
    for row in rows:
        if len(row.scores) == 2:
            scratch, pretrained = row.scores["scratch"], row.scores["pretrained"]
            gain = 100 * (pretrained.mean - scratch.mean)
            yield (
                f"{row.system.name}: {gain:+.1f} points, from {scratch} to {pretrained}, for"
                f" {pretrained.hours:.2f} h in place of {scratch.hours:.2f} h."
            )


def growth(rows: Sequence[Row]) -> Section:
    """Show how FLOPs and time grow with the size of images, whole and masked."""
    points = [
        {"system": row.system.name, "kind": row.system.kind, **point}
        for row in rows
        for point in row.costs["growth"]
    ]
    tables = {
        "whole": [point for point in points if point["what"] == "whole"],
        "masked": [point for point in points if point["system"] in pretrainable(rows)],
    }
    timed = all(point["ms"] is not None for point in points)
    measures = {"gflops": "GFLOPs of a forward pass"}
    if timed:
        measures["ms"] = "milliseconds of a training step"
    drawn = {
        f"lineage-{table}-{measure}": (table, measure, title)
        for table in tables
        for measure, title in measures.items()
    }
    return Section(
        name="growth",
        title="How cost grows with the image",
        body=render(
            "lineage_growth.html", drawn=drawn, ratio=RATIO, batch=BATCH, sentences=[*grown(rows)]
        ),
        charts={
            key: charts.growth(table, measure, title, tables[table])
            for key, (table, measure, title) in drawn.items()
        },
        data=tables,
    )


def pretrainable(rows: Sequence[Row]) -> set[str]:
    """Names of the systems that are measured masked, too."""
    return {row.system.name for row in rows if row.system.encoder}


def grown(rows: Sequence[Row]) -> Iterator[str]:
    """Say how much more FLOPs the largest images take than the smallest, for each system."""
    for row in rows:
        whole_images = [point for point in row.costs["growth"] if point["what"] == "whole"]
        small, large = whole_images[0], whole_images[-1]
        factor = large["gflops"] / small["gflops"]
        pixels = (large["size"] / small["size"]) ** 2
        yield (
            f"{row.system.name}: {small['gflops']:.3g} GFLOPs at {small['size']} px,"
            f" {large['gflops']:.3g} at {large['size']} px, {factor:.3g} times as many for"
            f" {pixels:.3g} times the pixels."
        )


def protocol(config: LineageConfig, rows: Sequence[Row]) -> Section:
    """Tell what is the same for all systems, and what differs."""
    differing = [
        [
            row.system.name,
            *(
                f"{row.scores[origin].rate:g}" if origin in row.scores else ""
                for origin in ("scratch", "pretrained")
            ),
            f"{row.system.ratio:g}" if row.system.encoder else "",
            row.system.note,
        ]
        for row in rows
    ]
    return Section(
        name="protocol",
        title="The protocol",
        body=render("lineage_protocol.html", config=config, rows=differing),
    )
