"""The curves of a report: loss, learning rate, gradient, speed and memory, runs over each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.reporting.record import RunRecord
from finetune.reporting.section import DASHES, Section, render

MOST_POINTS = 600  # of a curve; a longer one is drawn by the means of its parts


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A value of metrics.jsonl that is drawn against the step."""

    key: str
    """Its name in a line."""
    title: str
    """What the chart is called."""
    unit: str
    """The title of its axis."""
    form: str = "~g"
    """How d3 writes the numbers of the axis."""
    zero: bool = False
    """Whether the axis begins at 0, where a share or an amount is drawn."""


CURVES = (
    Curve(key="loss", title="Loss", unit="what is trained"),
    Curve(key="reconstruction", title="Reconstruction", unit="loss of hidden patches"),
    Curve(key="contrast", title="Contrastive term", unit="loss of views"),
    Curve(key="alignment", title="Alignment", unit="squared distance of views", zero=True),
    Curve(key="uniformity", title="Uniformity", unit="0: samples are alike"),
    Curve(key="lr", title="Learning rate", unit="learning rate", form="~e", zero=True),
    Curve(key="grad_norm", title="Gradient norm", unit="norm of the gradient", zero=True),
    Curve(key="images_per_s", title="Speed", unit="images/s", form="~s", zero=True),
    Curve(key="data_wait", title="Waiting for data", unit="share of time", form="%", zero=True),
    Curve(key="memory_gb", title="Peak memory", unit="GB of a process", zero=True),
)


def section(runs: Sequence[RunRecord]) -> Section | None:
    """Draw what the lines of metrics have; None if there are none."""
    tables = {curve.key: rows_of(runs, curve.key) for curve in CURVES}
    drawn = [curve for curve in CURVES if tables[curve.key]]
    if not drawn:
        return None
    names = [run.name for run in runs]
    longest = max(len(run.metrics) for run in runs)
    body = render(
        "curves.html",
        curves=drawn,
        labels={curve.key: label_of(curve, runs) for curve in drawn},
        names=names,
        thinned=longest if longest > MOST_POINTS else 0,
    )
    return Section(
        name="curves",
        title="Curves",
        body=body,
        charts={f"curve-{curve.key}": chart_of(curve, names) for curve in drawn},
        data={curve.key: tables[curve.key] for curve in drawn},
        script="curves.js",
    )


def rows_of(runs: Sequence[RunRecord], key: str) -> list[Mapping[str, Any]]:
    """The points of all runs: an object with run, step and value for each."""
    return [
        {"run": run.name, "step": step, "value": value}
        for run in runs
        for step, value in thinned(run.series(key))
    ]


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most MOST_POINTS points: the mean of each part of as many lines, at its last step."""
    size = max(1, -(-len(points) // MOST_POINTS))
    parts = (points[i : i + size] for i in range(0, len(points), size))
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def label_of(curve: Curve, runs: Sequence[RunRecord]) -> str:
    """Say what a chart shows to those who do not see it."""
    ends = [(run.name, run.series(curve.key)) for run in runs]
    told = [
        f"{name} from {points[0][1]:.3g} at step {points[0][0]} to {points[-1][1]:.3g} at step"
        f" {points[-1][0]}"
        for name, points in ends
        if points
    ]
    return f"{curve.title} by step: {'; '.join(told)}"


def chart_of(curve: Curve, names: Sequence[str]) -> dict[str, Any]:
    """A line for each run: what was measured, and what curves.js makes smooth of it.

    Args:
        curve: what is drawn.
        names: of the runs, in the order of their colours.
    """

    def height(field: str) -> dict[str, Any]:
        axis = {"format": curve.form, "tickCount": 5}
        scale = {"zero": curve.zero}
        value = {"field": field, "type": "quantitative", "title": curve.unit}
        return {"y": value | {"axis": axis, "scale": scale}}

    dashes = [DASHES[i % len(DASHES)] for i in range(len(names))]
    by_run = {"field": "run", "type": "nominal", "legend": None}
    near = {"type": "point", "nearest": True, "on": "pointerover", "clear": "pointerout"}
    pointed = {"condition": {"param": "near", "empty": False, "value": 1}, "value": 0}
    return {
        "data": {"name": curve.key},
        "params": [{"name": "smoothing", "value": 0}],
        "transform": [
            {"calculate": "isValid(datum.smooth) ? datum.smooth : datum.value", "as": "shown"}
        ],
        "encoding": {
            "x": {
                "field": "step",
                "type": "quantitative",
                "axis": {"tickCount": 6, "format": "~s"},
            },
            "color": by_run | {"scale": {"domain": names}},
            "strokeDash": by_run | {"scale": {"domain": names, "range": dashes}},
        },
        "layer": [
            {
                "mark": {"type": "line", "opacity": {"expr": "smoothing > 0 ? 0.3 : 0"}},
                "encoding": height("value"),
            },
            {"mark": "line", "encoding": height("shown")},
            {
                "mark": {"type": "point", "filled": True, "size": 60},
                "params": [{"name": "near", "select": near}],
                "encoding": height("shown")
                | {
                    "opacity": pointed,
                    "tooltip": [
                        {"field": "run"},
                        {"field": "step", "format": ","},
                        {"field": "value", "title": curve.unit, "format": ".4~g"},
                    ],
                },
            },
        ],
    }
