"""The charts of results: a bar for each, and learning curves against the number of labels."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from finetune.reporting.entries import Entry, Point
from finetune.reporting.measured import Spread
from finetune.reporting.result_tables import name_of
from finetune.reporting.section import DASHES

KINDS = ("weights", "random start", "no encoder")  # in the order of their colours
PRIMARY = {"accuracy": "Accuracy", "map": "Mean average precision", "miou": "Mean IoU"}


def scores_of(entries: Sequence[Entry], several: bool) -> Iterator[Mapping[str, Any]]:
    """A row for each measure of each entry, with all values as they are."""
    for entry in entries:
        for measure, spread in entry.measures.items():
            yield {
                "run": entry.run,
                "result": entry.name,
                "method": entry.method,
                "start": entry.start,
                "kind": kind_of(entry),
                "label": label_of(entry, several),
                "measure": measure,
                **row_of(spread),
            }


def row_of(spread: Spread) -> dict[str, Any]:
    """A measure as a row of a chart has it."""
    mean, std = spread.mean, spread.std
    return {
        "mean": mean,
        "std": std,
        "low": None if mean is None else mean - (std or 0.0),
        "high": None if mean is None else mean + (std or 0.0),
        "seeds": len(spread.values),
        "values": spread.values,
    }


def kind_of(entry: Entry) -> str:
    """Which of KINDS an entry starts from."""
    _, random, none = KINDS
    if entry.method.startswith("baseline"):
        return none
    return random if entry.start.startswith("random ") else KINDS[0]


def label_of(entry: Entry, several: bool) -> str:
    """What an entry is called beside its bar, which no other entry is."""
    method = entry.method.removeprefix("baseline: ")
    return f"{entry.name}: {method}" + (f" ({entry.run})" if several else "")


def label_row(point: Point) -> Mapping[str, Any]:
    """A point of a learning curve as a row of the chart."""
    return {
        "run": point.run,
        "result": point.name,
        "metric": point.metric,
        "curve": point.curve,
        "line": f"{point.run} {point.name} {point.curve}",
        "label": point.label,
        "labels": point.samples,
        **row_of(point.value),
    }


def colours(names: Sequence[str]) -> dict[str, Any]:
    """The colour of each run, as all charts of the page have it."""
    return {"legend": None, "scale": alt.Scale(domain=list(names))}


def score_chart(measure: str, bars: int, names: Sequence[str]) -> dict[str, Any]:
    """A bar for each entry with a line of one standard deviation, and a tick for each seed.

    Args:
        measure: what is drawn.
        bars: how many entries have it.
        names: of the runs.
    """
    base = (
        alt.Chart(alt.NamedData("scores"))
        .transform_filter(alt.FieldEqualPredicate(field="measure", equal=measure))
        .transform_filter("isValid(datum.mean)")
        .encode(y=alt.Y("label:N", title=None, sort=None, axis=alt.Axis(labelLimit=240)))
    )
    legend = alt.Legend(columns=1, symbolType="square")
    colour = alt.Color("kind:N", title=None, sort=list(KINDS), legend=legend)
    if len(names) > 1:
        colour = alt.Color("run:N", **colours(names))
    tooltip = [
        *(alt.Tooltip(f"{name}:N") for name in ("result", "run", "method", "start")),
        alt.Tooltip("mean:Q", format=".4f"),
        alt.Tooltip("std:Q", title="std over seeds", format=".4f"),
        alt.Tooltip("seeds:Q"),
    ]
    scale = alt.Scale(domain=[0, 1], clamp=True)
    x = alt.X(
        "mean:Q", title=name_of(measure), scale=scale, axis=alt.Axis(tickCount=5, labelSeparation=4)
    )
    drawn = base.mark_bar(opacity=0.75).encode(x=x, color=colour, tooltip=tooltip)
    ink = alt.value("var(--ink)")
    spread = base.mark_rule(strokeWidth=2).encode(
        x="low:Q", x2="high:Q", color=ink, tooltip=tooltip
    )
    seeds = (
        base.transform_flatten(["values"], as_=["seed"])
        .mark_tick(thickness=2, size=12)
        .encode(x="seed:Q", color=ink, tooltip=alt.Tooltip("seed:Q", format=".4f"))
    )
    return alt.layer(drawn, spread, seeds).properties(height=28 * bars).to_dict()


def label_chart(metric: str, names: Sequence[str]) -> dict[str, Any]:
    """Learning curves: the mean against the number of labels, in a band of a standard deviation.

    Args:
        metric: what is drawn.
        names: of the runs.
    """
    legend = alt.Legend(columns=1, symbolType="stroke", symbolOpacity=1, symbolStrokeWidth=3)
    base = (
        alt.Chart(alt.NamedData("labels"))
        .transform_filter(alt.FieldEqualPredicate(field="metric", equal=metric))
        .transform_filter("isValid(datum.mean)")
        .encode(
            x=alt.X(
                "labels:Q",
                title="labels",
                scale=alt.Scale(type="log", nice=False),
                axis=alt.Axis(labelOverlap="greedy", labelSeparation=8),
            ),
            color=alt.Color("curve:N", title=None, legend=legend),
            detail="line:N",
        )
    )
    dashes = alt.Scale(
        domain=list(names), range=[DASHES[i % len(DASHES)] for i in range(len(names))]
    )
    tooltip = [
        *(alt.Tooltip(f"{name}:N") for name in ("result", "run", "curve", "label")),
        alt.Tooltip("labels:Q", format=","),
        alt.Tooltip("mean:Q", format=".4f"),
        alt.Tooltip("std:Q", title="std over seeds", format=".4f"),
        alt.Tooltip("seeds:Q"),
    ]
    scale = alt.Scale(zero=False)
    band = base.mark_area(opacity=0.18).encode(
        y=alt.Y("low:Q", title=name_of(metric), scale=scale), y2="high:Q"
    )
    line = base.mark_line(point={"size": 60}).encode(
        y=alt.Y("mean:Q", scale=scale),
        strokeDash=alt.StrokeDash("run:N", legend=None, scale=dashes),
        tooltip=tooltip,
    )
    return alt.layer(band, line).properties(height=300).to_dict()
