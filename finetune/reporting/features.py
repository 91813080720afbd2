"""What the features of watched images look like before and after: a map, and nearest neighbours."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from finetune.reporting.maps import nearest, pca, tsne
from finetune.reporting.pictures import data_uri, is_small
from finetune.reporting.record import RunRecord
from finetune.reporting.section import Section, render
from finetune.reporting.watched import Watched, WatchedStep, evenly

MOST_RUNS = 6  # whose features are shown
MOST_IMAGES = 600  # of all runs together
FEWEST = 8  # images, below which a map says nothing
SIDE = 64  # pixels of a thumbnail
ASKED = 10  # images whose neighbours are shown
NEAREST = 5  # neighbours of each
MOST_CLASSES = 12  # that a map tells apart; all others are one
OTHER, UNKNOWN = "other classes", "no class"
METHODS = {"pca": "PCA", "tsne": "t-SNE"}


class Thumbnails:
    """Small pictures of images, each once, however many runs watch it."""

    def __init__(self) -> None:
        self.numbers: dict[bytes, int] = {}
        self.uris: list[str] = []

    def add(self, pixels: np.ndarray) -> int:
        """The number of the picture of an image, `[3, h, w]`."""
        digest = hashlib.sha256(pixels.tobytes()).digest()
        if digest not in self.numbers:
            self.numbers[digest] = len(self.uris)
            tiny = max(pixels.shape) <= SIDE // 2
            self.uris.append(data_uri(pixels, SIDE, exact=tiny))
        return self.numbers[digest]

    def table(self) -> list[Mapping[str, Any]]:
        """The number and the data URI of each."""
        return [{"picture": i, "image": uri} for i, uri in enumerate(self.uris)]


@dataclass(frozen=True, kw_only=True)
class Look:
    """Features at a step."""

    when: str
    """`before` or `after`, for names."""
    title: str
    features: Float[np.ndarray, "n d"]


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """An image that is near to another one."""

    picture: int
    name: str
    cosine: float
    same: bool
    """Whether it is of the same class."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An image, and its neighbours before and after."""

    picture: int
    name: str
    near: Sequence[tuple[str, Sequence[Neighbour]]]
    """The title of each look, and the neighbours there."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is shown of a run."""

    name: str
    count: int
    looks: Sequence[Look]
    held: Mapping[str, float]
    """The share of the variance that the PCA of each look holds."""
    agreement: str
    """How often neighbours are of the same class, in a sentence; empty without classes."""
    asked: Sequence[Asked]
    small: bool
    """Whether pixels are to be seen as they are."""


def section(runs: Sequence[RunRecord]) -> Section | None:
    """Show the features of runs; None if no run has kept enough."""
    found = [
        (run.name, run.watched, looks)
        for run in runs
        if run.watched is not None and (looks := looks_of(run.watched))
    ]
    if not found:
        return None
    thumbnails = Thumbnails()
    charts: dict[str, Mapping[str, Any]] = {}
    data: dict[str, Any] = {}
    shown = list[Shown]()
    some = found[:MOST_RUNS]
    for number, (name, watched, whole) in enumerate(some):
        chosen = evenly(len(watched.images), MOST_IMAGES // len(some))
        looks = [replace(look, features=look.features[chosen]) for look in whole]
        numbers = [thumbnails.add(watched.images.pixels[i]) for i in chosen]
        places, held = places_of(looks)
        classes = classes_of(watched, chosen)
        data[f"map{number}"] = [
            {
                "picture": picture,
                "key": watched.images.keys[i],
                "class": watched.images.class_of(i) or UNKNOWN,
                "group": group,
                **{name: float(values[row]) for name, values in places.items()},
            }
            for row, (i, picture, group) in enumerate(zip(chosen, numbers, classes, strict=True))
        ]
        for look in looks:
            for method in METHODS:
                charts[f"map{number}-{method}-{look.when}"] = chart_of(
                    f"map{number}", f"{method}_{look.when}", classes
                )
        labels = watched.images.labels[chosen]
        shown.append(
            Shown(
                name=name,
                count=len(chosen),
                looks=looks,
                held=held,
                agreement=agreement_of(looks, labels),
                asked=asked_of(watched, chosen, numbers, looks),
                small=is_small(watched.images.pixels),
            )
        )
    data["pictures"] = thumbnails.table()
    return Section(
        name="features",
        title="What is alike to the encoder",
        body=render(
            "features.html",
            runs=shown,
            methods=METHODS,
            others=len(found) - len(shown),
            count=NEAREST,
        ),
        charts=charts,
        data=data,
        script="features.js",
    )


def looks_of(watched: Watched) -> list[Look]:
    """The first and the last features that are finite; one look if there are no others."""
    if len(watched.images) < FEWEST:
        return []
    steps = watched.having("features")
    first = next((found for step in steps if (found := features_of(step))), None)
    last = next((found for step in steps[::-1] if (found := features_of(step))), None)
    if first is None or last is None:
        return []
    (begun, before), (ended, after) = first, last
    title = "Before pretraining" if begun == 0 else f"At step {begun}"
    looks = [Look(when="before", title=title, features=before)]
    if ended > begun:
        looks.append(Look(when="after", title=f"After step {ended}", features=after))
    return looks


def features_of(step: WatchedStep) -> tuple[int, np.ndarray] | None:
    """The number of the step and its features; None if they are not finite or have one number."""
    features = step["features"].astype(np.float32)
    usable = np.isfinite(features).all() and features.shape[1] >= 2
    return (step.step, features) if usable else None


def places_of(looks: Sequence[Look]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The coordinates of all maps by name, and the share of variance that each PCA holds."""
    places: dict[str, np.ndarray] = {}
    held: dict[str, float] = {}
    for look in looks:
        linear, held[look.when] = pca(look.features)
        for method, found in (("pca", linear), ("tsne", tsne(look.features))):
            for axis, values in zip("xy", found.T, strict=True):
                places[f"{method}_{look.when}_{axis}"] = values
    return places, held


def classes_of(watched: Watched, chosen: Sequence[int]) -> list[str]:
    """The class of each image as the map tells it: rare ones together where there are many."""
    names = [watched.images.class_of(i) or UNKNOWN for i in chosen]
    counts = Counter(names)
    if len(counts) <= MOST_CLASSES:
        return names
    kept = {name for name, _ in counts.most_common(MOST_CLASSES - 1)}
    return [name if name in kept else OTHER for name in names]


def asked_of(
    watched: Watched, chosen: Sequence[int], numbers: Sequence[int], looks: Sequence[Look]
) -> list[Asked]:
    """An even choice of images, with their neighbours.

    Args:
        watched: the images.
        chosen: those that are shown.
        numbers: of their pictures.
        looks: their features.
    """
    images, labels = watched.images, watched.images.labels
    found = [(look.title, *nearest(look.features, NEAREST)) for look in looks]
    asked = list[Asked]()
    for row in evenly(len(chosen), ASKED):
        own = labels[chosen[row]]
        near = [
            (
                title,
                [
                    Neighbour(
                        picture=numbers[other],
                        name=images.named(chosen[other]),
                        cosine=float(cosine),
                        same=bool(own >= 0 and labels[chosen[other]] == own),
                    )
                    for other, cosine in zip(rows[row], cosines[row], strict=True)
                ],
            )
            for title, rows, cosines in found
        ]
        asked.append(Asked(picture=numbers[row], name=images.named(chosen[row]), near=near))
    return asked


def agreement_of(looks: Sequence[Look], labels: np.ndarray) -> str:
    """How often the nearest neighbours of images are of their class, and what chance would give."""
    known = labels >= 0
    if np.unique(labels[known]).size < 2:
        return ""
    shares = []
    for look in looks:
        rows, _ = nearest(look.features, NEAREST)
        same = (labels[rows] == labels[:, None])[known]
        shares.append(f"{same.mean():.0%} {look.title[0].lower()}{look.title[1:]}")
    same = labels[known][:, None] == labels
    chance = (same.sum(1) - 1).mean() / (len(labels) - 1)
    return (
        f"Of the {NEAREST} nearest neighbours of all images, {' and '.join(shares)} are of the same"
        f" class; by chance it would be {chance:.0%}."
    )


def chart_of(table: str, place: str, classes: Sequence[str]) -> dict[str, Any]:
    """A map: a point for each image, told apart by class in colour and shape.

    Args:
        table: the name of the points.
        place: the name of their coordinates, before `_x` and `_y`.
        classes: of the points.
    """
    names = [name for name, _ in Counter(classes).most_common()]
    by_class = {"field": "group", "type": "nominal"}
    legend = {"columns": 2, "labelLimit": 140, "title": None}
    told_apart = by_class | {"scale": {"domain": names}, "legend": legend}
    axis = {"type": "quantitative", "axis": None, "scale": {"zero": False, "padding": 14}}
    return {
        "data": {"name": table},
        "height": 320,
        "view": {"stroke": "var(--line)"},
        "transform": [
            {
                "lookup": "picture",
                "from": {"data": {"name": "pictures"}, "key": "picture", "fields": ["image"]},
            }
        ],
        "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.85},
        "encoding": {
            "x": axis | {"field": f"{place}_x"},
            "y": axis | {"field": f"{place}_y"},
            **({"color": told_apart, "shape": told_apart} if len(names) > 1 else {}),
            "tooltip": [{"field": "image"}, {"field": "key"}, {"field": "class"}],
        },
    }
