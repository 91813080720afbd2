"""How rich features are over time: collapse by block, effective rank, alpha-ReQ, online k-NN.

The first chart is figure 3 of the ConvNeXt V2 paper, with a line for each step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.reporting.curves import Curve, label_of, rows_of
from finetune.reporting.feature_rules import ALIKE
from finetune.reporting.record import RunRecord, is_number
from finetune.reporting.section import BLOCKS, DASHES, Section, render
from finetune.reporting.watched import evenly

MOST_LINES = 12  # steps of a run whose blocks are drawn
EARLY, LATE = "#7f8fa6", "#d9480f"  # both 3:1 against white and against black
Blocks = list[tuple[int, list[float]]]


@dataclass(frozen=True, kw_only=True)
class Measure(Curve):
    """A curve of what is measured now and then of the features."""

    about: str
    """How to read it."""


MEASURES = (
    Measure(
        key="rankme",
        title="Effective rank (RankMe)",
        unit="directions in use",
        about="How many directions the features spread over, at most as many as they have"
        " numbers, or as images are watched. More is better within one kind of model; a fall means"
        " collapse.",
    ),
    Measure(
        key="alpha_req",
        title="Decay of the spectrum (alpha-ReQ)",
        unit="alpha",
        about="How fast the variance falls from one direction to the next. Good features are near"
        " 1; far above it, a few directions hold all of the variance.",
    ),
    Measure(
        key="knn_accuracy",
        title="Online k-NN",
        unit="accuracy",
        about="How often the nearest labelled images tell the class, without any training on"
        " labels. It should rise.",
        form=".0%",
        zero=True,
    ),
)


def section(runs: Sequence[RunRecord]) -> Section | None:
    """Draw what was measured of the features of runs; None if nothing was."""
    collapse = {run.name: found for run in runs if (found := blocks_of(run))}
    tables = {m.key: rows_of(runs, m.key) for m in MEASURES}
    measures = [measure for measure in MEASURES if tables[measure.key]]
    if not collapse and not measures:
        return None
    names = [run.name for run in runs]
    charts = {f"spectrum-{measure.key}": chart_of(measure, names) for measure in measures}
    data: dict[str, Any] = {measure.key: tables[measure.key] for measure in measures}
    for number, found in enumerate(collapse.values()):
        data[f"collapse{number}"] = rows_by_block(found)
        steps = [found[0][0], found[-1][0]]
        charts[f"spectrum-collapse{number}"] = chart_by_block(f"collapse{number}", steps)
    return Section(
        name="spectrum",
        title="Collapse and spectrum of the features",
        body=render(
            "spectrum.html",
            collapse=[(name, told(found)) for name, found in collapse.items()],
            measures=[(measure, label_of(measure, runs)) for measure in measures],
            names=names,
        ),
        charts=charts,
        data=data,
    )


def blocks_of(run: RunRecord) -> Blocks:
    """The steps at which collapse was measured, and the feature distance of each block there."""
    return [
        (line["step"], [float(value) for value in values])
        for line in run.metrics
        if isinstance(values := line.get("collapse"), list)
        and values
        and all(map(is_number, values))
    ]


def rows_by_block(found: Blocks) -> list[Mapping[str, Any]]:
    """An object for each block at an even choice of the steps."""
    return [
        {"step": step, "block": block, "distance": distance}
        for step, distances in (found[i] for i in evenly(len(found), MOST_LINES))
        for block, distance in enumerate(distances, 1)
    ]


def told(found: Blocks) -> str:
    """A sentence on the block whose channels are most alike at the last step."""
    step, distances = found[-1]
    least = min(distances)
    block = distances.index(least) + 1
    low = sum(distance < ALIKE for distance in distances)
    verdict = (
        f"{low} of {len(distances)} blocks are below {ALIKE}: their channels are nearly copies"
        " of each other."
        if low
        else f"No block is below {ALIKE}, where channels would be nearly copies of each other."
    )
    return f"At step {step} the least distance is {least:.3f}, in block {block}. {verdict}"


def chart_of(measure: Measure, names: Sequence[str]) -> dict[str, Any]:
    """A line for each run, with a point wherever the number was measured.

    Args:
        measure: what is drawn.
        names: of the runs, in the order of their colours.
    """
    dashes = [DASHES[i % len(DASHES)] for i in range(len(names))]
    by_run = {"field": "run", "type": "nominal", "legend": None}
    height = {"field": "value", "type": "quantitative", "title": measure.unit}
    axis = {"format": measure.form, "tickCount": 5}
    return {
        "data": {"name": measure.key},
        "encoding": {
            "x": {"field": "step", "type": "quantitative", "axis": {"format": "~s"}},
            "y": height | {"axis": axis, "scale": {"zero": measure.zero}},
            "color": by_run | {"scale": {"domain": names}},
            "tooltip": [
                {"field": "run"},
                {"field": "step", "format": ","},
                {"field": "value", "title": measure.unit, "format": ".4~g"},
            ],
        },
        "layer": [
            {
                "mark": "line",
                "encoding": {"strokeDash": by_run | {"scale": {"domain": names, "range": dashes}}},
            },
            {"mark": {"type": "point", "filled": True, "size": 50}},
        ],
    }


def chart_by_block(table: str, steps: Sequence[int]) -> dict[str, Any]:
    """Feature distance by block, a line for each step.

    Args:
        table: the name of the points.
        steps: the first one and the last one, for the scale of colours.
    """
    legend = {"format": "~s", "gradientLength": 160}
    return {
        "data": {"name": table},
        "mark": {"type": "line", "point": {"size": 25}},
        "encoding": {
            "x": BLOCKS,
            "y": {
                "field": "distance",
                "type": "quantitative",
                "title": "feature distance",
                "scale": {"domain": [0, 0.5]},
            },
            "color": {
                "field": "step",
                "type": "quantitative",
                "scale": {"range": [EARLY, LATE], "domain": steps},
                "legend": legend,
            },
            "detail": {"field": "step"},
            "tooltip": [
                {"field": "step", "format": ","},
                {"field": "block"},
                {"field": "distance", "format": ".4f"},
            ],
        },
    }
