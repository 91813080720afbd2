"""What each layer looks for: the patches that excite channels most, and the responses of GRN.

Patches are shown as in Zeiler and Fergus 2014, figure 2: early layers look for local things such as
edges and colours, late ones for whole things.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from finetune.reporting.pictures import data_uri, mosaic
from finetune.reporting.record import RunRecord
from finetune.reporting.section import BLOCKS, Section, render
from finetune.reporting.watched import (
    PLACES,
    Watched,
    WatchedImages,
    WatchedStep,
    blocks_in,
    evenly,
    stages_in,
)

MOST_RUNS = 6  # whose patches are shown
MOST_CHANNELS = 8  # of a stage, for two runs; fewer for more of them
MOST_PATCHES = 9  # of a channel, in rows of three
ACROSS = 7  # positions of the stage that a patch spans: what one of its convolutions sees
TILE = 64  # pixels of a patch as it is shown
GAP = 2
SILENT = 0.01  # responses below it are drawn there
QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95, "most": 1.0}


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A channel of a stage."""

    number: int
    uri: str
    """A picture of the patches that excite it most."""
    alt: str
    range: str
    """The least and the largest of its values there."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of a run."""

    number: int
    side: int
    """Of its patches, in pixels."""
    whole: bool
    """Whether a patch is as large as images are."""
    channels: Sequence[Channel]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is shown of a run."""

    name: str
    step: int
    stages: Sequence[Stage]
    grn: str
    """The name of the table of GRN's responses; empty for a run without."""


def section(runs: Sequence[RunRecord]) -> Section | None:
    """Show what excites the layers of runs; None if no run has kept it."""
    found = [
        (run.name, run.watched)
        for run in runs
        if run.watched is not None and any(map(is_told, run.watched.steps))
    ]
    if not found:
        return None
    charts: dict[str, Mapping[str, Any]] = {}
    data: dict[str, Any] = {}
    shown = list[Shown]()
    count = min(MOST_CHANNELS, 2 * MOST_CHANNELS // len(found[:MOST_RUNS]))
    for number, (name, watched) in enumerate(found[:MOST_RUNS]):
        last = [step for step in watched.steps if is_told(step)][-1]
        table = f"grn{number}" if blocks_in(last.names) else ""
        if table:
            data[table] = grn_rows(watched)
            low = max(SILENT, min(row["q05"] for row in data[table]))
            charts[f"layers-{table}"] = chart_of(table, low)
        stages = [stage_of(watched.images, last, stage, count) for stage in stages_in(last.names)]
        shown.append(Shown(name=name, step=last.step, stages=stages, grn=table))
    return Section(
        name="layers",
        title="What the layers look for",
        body=render("layers.html", runs=shown, across=ACROSS, others=len(found) - len(shown)),
        charts=charts,
        data=data,
    )


def is_told(step: WatchedStep) -> bool:
    """Whether the file of a step has what this section shows."""
    return bool(stages_in(step.names) or blocks_in(step.names))


def stage_of(images: WatchedImages, step: WatchedStep, stage: int, count: int) -> Stage:
    """The patches that excite an even choice of a stage's channels.

    Args:
        images: that patches are cut from.
        step: what excites channels.
        stage: its number, from 1 on.
        count: how many channels, at most.
    """
    stride = step.strides[stage - 1]
    side = min(ACROSS * stride, *images.pixels.shape[2:])
    channels = step[f"stage{stage}.channels"]
    numbers, rows, columns, values = (
        step[f"stage{stage}.{part}"][:, :MOST_PATCHES] for part in PLACES
    )
    shown = list[Channel]()
    for i in evenly(len(channels), count):
        tiles = [
            tile_of(cut(images.pixels[image], int(row), int(column), stride, side))
            for image, row, column in zip(numbers[i], rows[i], columns[i], strict=True)
        ]
        names = ", ".join(images.named(int(image)) for image in numbers[i])
        whole = mosaic(np.stack(tiles), 3, GAP)
        shown.append(
            Channel(
                number=int(channels[i]),
                uri=data_uri(whole, max(whole.shape)),
                alt=f"Patches that excite channel {channels[i]} of stage {stage} most: of {names}",
                range=f"{values[i].min():.3g} to {values[i].max():.3g}",
            )
        )
    return Stage(
        number=stage, side=side, whole=side == min(images.pixels.shape[2:]), channels=shown
    )


def cut(
    pixels: UInt8[np.ndarray, "3 h w"], row: int, column: int, stride: int, side: int
) -> UInt8[np.ndarray, "3 side side"]:
    """Cut the square around a position of a map out of an image.

    At a border it is moved into the image, so that no pixel of it is empty.

    Args:
        pixels: the image.
        row: of the position.
        column: likewise.
        stride: pixels between two positions; the one at row 0 has its centre at stride / 2.
        side: of the square, in pixels; not above the sides of the image.
    """
    top, left = (
        min(max(round((at + 0.5) * stride - side / 2), 0), length - side)
        for at, length in zip((row, column), pixels.shape[1:], strict=True)
    )
    return pixels[:, top : top + side, left : left + side]


def tile_of(patch: UInt8[np.ndarray, "3 s s"]) -> UInt8[np.ndarray, "3 TILE TILE"]:
    """A patch in the size in which it is shown."""
    picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(patch, 0, -1)))
    return np.moveaxis(np.asarray(picture.resize((TILE, TILE), Image.Resampling.BICUBIC)), -1, 0)


def grn_rows(watched: Watched) -> list[Mapping[str, Any]]:
    """Quantiles over the channels of what GRN responds, by block, at the first and last step."""
    steps = [step for step in watched.steps if blocks_in(step.names)]
    rows = list[Mapping[str, Any]]()
    for step in dict.fromkeys((steps[0].step, steps[-1].step)):
        file = next(found for found in steps if found.step == step)
        for block in blocks_in(file.names):
            response = file[f"grn{block}.response"]
            quantiles = np.quantile(response.astype(np.float64), list(QUANTILES.values()))
            named = dict(zip(QUANTILES, map(float, quantiles), strict=True))
            rows.append({"when": f"step {step}", "block": block + 1, **named})
    return rows


def chart_of(table: str, low: float) -> dict[str, Any]:
    """The middle of the responses as a line, and where half and nearly all of them lie as bands.

    Args:
        table: the name of the quantiles.
        low: the least response that the axis has.
    """
    when = {"field": "when", "type": "nominal"}
    legend = {"title": None, "symbolType": "square", "symbolOpacity": 1}
    title = "response of channels"
    scale = {"type": "log", "domainMin": low, "clamp": True}

    def height(field: str) -> dict[str, Any]:
        return {"field": field, "type": "quantitative", "title": title, "scale": scale}

    tooltip = [{"field": quantile, "format": ".3f"} for quantile in QUANTILES]
    return {
        "data": {"name": table},
        "encoding": {
            "x": BLOCKS,
            "color": when | {"legend": legend},
        },
        "layer": [
            {
                "mark": {"type": "area", "opacity": 0.15},
                "encoding": {"y": height("q05"), "y2": {"field": "q95"}},
            },
            {
                "mark": {"type": "area", "opacity": 0.3},
                "encoding": {"y": height("q25"), "y2": {"field": "q75"}},
            },
            {
                "mark": {"type": "line", "point": {"size": 25}},
                "encoding": {
                    "y": height("q50"),
                    "strokeDash": when | {"legend": None},
                    "tooltip": [{"field": "when"}, {"field": "block"}, *tooltip],
                },
            },
            {
                "mark": {"type": "point", "shape": "triangle-up", "size": 40},
                "encoding": {"y": height("most")},
            },
        ],
    }
