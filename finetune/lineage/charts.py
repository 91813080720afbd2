"""The charts of the page of the lineage, as Vega-Lite has them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from finetune.lineage.systems import Kind
from finetune.reporting.section import DASHES

HEIGHT = 420
GAP = 14  # pixels between the middles of two labels
KINDS = list(get_args(Kind))
WHATS = ("whole", "visible", "pretraining")
COLOUR = {
    "field": "kind",
    "type": "nominal",
    "title": None,
    "scale": {"domain": KINDS},
    "legend": {"columns": 2},
}


def axis(field: str, title: str, **more: Any) -> dict[str, Any]:
    """An axis of numbers."""
    return {"field": field, "type": "quantitative", "title": title, **more}


def logarithmic(field: str, title: str) -> dict[str, Any]:
    """An axis of numbers over several orders of magnitude."""
    ticks = {"format": "~g", "labelOverlap": "greedy", "labelSeparation": 8}
    return axis(field, title, scale={"type": "log", "nice": False, "padding": 12}, axis=ticks)


def published() -> dict[str, Any]:
    """The accuracy that papers report, against their years."""
    late = "datum.year > 2018"
    return {
        "data": {"name": "published"},
        "height": 280,
        "encoding": {
            "x": axis("year", "year", axis={"format": "d"}, scale={"zero": False, "padding": 12}),
            "y": axis(
                "accuracy",
                "accuracy on ImageNet as published",
                axis={"format": ".0%"},
                scale={"zero": False, "padding": 12},
            ),
            "tooltip": [{"field": "model"}, {"field": "year"}, {"field": "accuracy"}],
        },
        "layer": [
            {"mark": {"type": "point", "filled": True, "size": 70}, "encoding": {"color": COLOUR}},
            {
                "mark": {
                    "type": "text",
                    "align": {"expr": f"{late} ? 'right' : 'left'"},
                    "dx": {"expr": f"{late} ? -9 : 9"},
                },
                "encoding": {"text": {"field": "model"}},
            },
        ],
    }


def scores() -> dict[str, Any]:
    """Accuracy against FLOPs: a point and its spread for each start, joined for each system."""
    accuracy = axis("accuracy", "accuracy", axis={"format": ".0%"}, scale={"zero": False})
    starts = {"domain": ["scratch", "pretrained"], "range": ["circle", "triangle-up"]}
    tooltip = [
        *({"field": name} for name in ("system", "start", "seeds")),
        {"field": "accuracy", "format": ".3f"},
        {"field": "gflops", "format": ".3g"},
        {"field": "parameters", "format": ","},
    ]
    return {
        "data": {"name": "scores"},
        "height": HEIGHT,
        "encoding": {"x": logarithmic("gflops", "GFLOPs of an image"), "tooltip": tooltip},
        "layer": [
            {
                "mark": {"type": "line", "strokeDash": [2, 3]},
                "encoding": {"y": accuracy, "color": COLOUR, "detail": {"field": "system"}},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {
                    "y": axis("low", "accuracy"),
                    "y2": {"field": "high"},
                    "color": COLOUR,
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
                "encoding": {
                    "y": accuracy,
                    "color": COLOUR,
                    "shape": {
                        "field": "start",
                        "title": None,
                        "scale": starts,
                        "legend": {"orient": "bottom"},
                    },
                },
            },
            {
                "mark": {"type": "text", "dy": -14},
                "encoding": {"y": accuracy, "text": {"field": "label"}},
            },
        ],
    }


def growth(
    table: str, measure: str, title: str, points: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """FLOPs or time against the side of images, both logarithmic, with names at the ends of lines.

    Args:
        table: the name of the points: `whole`, by kind of network; `masked`, by network.
        measure: the field that is drawn.
        title: of its axis.
        points: of the table.
    """
    whole = table == "whole"
    names = list(dict.fromkeys(point["system"] for point in points))
    legend = {"columns": 2, "symbolType": "stroke", "symbolStrokeWidth": 3}
    colour = COLOUR if whole else {"field": "system", "title": None, "scale": {"domain": names}}
    sides = logarithmic("size", "side of the image in pixels")
    sides["axis"] = {"values": sorted({point["size"] for point in points}), "format": "d"}
    dashes = {
        "field": "what",
        "title": None,
        "scale": {"domain": WHATS, "range": DASHES[: len(WHATS)]},
        "legend": {
            "orient": "bottom",
            "symbolType": "stroke",
            "symbolSize": 500,
            "symbolStrokeColor": "var(--ink)",
            "symbolStrokeWidth": 2,
        },
    }
    line = {
        "mark": {"type": "line", "point": {"size": 25}},
        "encoding": {
            "x": sides,
            "y": logarithmic(measure, title),
            "color": {**colour, "type": "nominal", "legend": legend},
            "detail": {"field": "system"},
            **({} if whole else {"strokeDash": dashes}),
            "tooltip": [
                *({"field": name} for name in ("system", "what", "size")),
                {"field": measure, "format": ".3g"},
            ],
        },
    }
    layers: list[Any] = [{"data": {"name": table}, **line}]
    if whole:
        layers.append(
            {
                "data": {"values": labels(points, measure)},
                "mark": {"type": "text", "align": "left", "dx": 8},
                "encoding": {
                    "x": sides,
                    "y": logarithmic(measure, title),
                    "text": {"field": "system"},
                },
            }
        )
    return {"height": HEIGHT, "layer": layers}


def labels(points: Sequence[Mapping[str, Any]], measure: str) -> list[dict[str, Any]]:
    """Put a name beside the last point of each line, so far apart that all can be read.

    Args:
        points: of lines, each with one point at the largest size.
        measure: the field that is drawn, on a logarithmic axis.
    """
    values = [math.log(point[measure]) for point in points]
    gap = (max(values) - min(values)) * GAP / HEIGHT
    largest = max(point["size"] for point in points)
    ends = sorted((p for p in points if p["size"] == largest), key=lambda p: p[measure])
    placed = list[float]()
    for end in ends:
        height = math.log(end[measure])
        placed.append(max(height, placed[-1] + gap) if placed else height)
    return [
        {"system": end["system"], "size": largest, measure: math.exp(height)}
        for end, height in zip(ends, placed, strict=True)
    ]
