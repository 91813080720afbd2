"""Reconstructions of the same eight images over training time, with a slider over the steps.

Steps are left out, evenly, where all their pictures would make the page too large to send.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from finetune.reporting.pictures import SMALL, data_uri, is_small
from finetune.reporting.record import RunRecord
from finetune.reporting.section import Section, render
from finetune.reporting.watched import VIEWS, Watched, WatchedStep, evenly

MOST_RUNS = 6  # whose pictures are shown
MOST_BYTES = 1_500_000  # of the pictures of all runs
MOST_STEPS = 24  # of a run
SIDES = (224, 160, 128)  # pixels of a picture at most: the first one for which there is room
CHANGING = VIEWS[1:]  # the views that change from step to step; the mask is always the same
ABOUT = {
    "original": "the whole image",
    "visible": "the patches that the encoder sees; all others are grey",
    "prediction": "what the decoder makes of those that were hidden",
    "pasted": "the prediction in its place among the visible patches",
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A view of an image, as one picture or as one for each step."""

    view: str
    uris: Sequence[str]
    alts: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is shown of a run."""

    name: str
    steps: Sequence[int]
    left_out: int
    """The number of steps that are not shown."""
    small: bool
    """Whether pixels are to be seen as they are."""
    cards: Sequence[tuple[str, Sequence[Picture]]]
    """The name of each image, and its four views."""


def section(runs: Sequence[RunRecord]) -> Section | None:
    """Show the reconstructions of each run; None if no run has kept any."""
    found = [
        (run.name, run.watched, steps)
        for run in runs
        if run.watched is not None and (steps := run.watched.having(*VIEWS))
    ]
    if not found:
        return None
    some = found[:MOST_RUNS]
    shown = [
        shown_of(name, watched, steps, MOST_BYTES // len(some)) for name, watched, steps in some
    ]
    return Section(
        name="reconstructions",
        title="Reconstructions",
        body=render("reconstructions.html", runs=shown, about=ABOUT, others=len(found) - len(some)),
        data={"steps": [dict(row) for row in rows_of(found)]},
        script="reconstructions.js",
    )


def rows_of(
    found: Sequence[tuple[str, Watched, Sequence[WatchedStep]]],
) -> Iterator[Mapping[str, object]]:
    """Iterate over the steps at which runs have kept pictures."""
    for name, _, steps in found:
        for step in steps:
            yield {"run": name, "step": step.step}


def shown_of(name: str, watched: Watched, steps: Sequence[WatchedStep], most: int) -> Shown:
    """Choose steps, and encode their pictures.

    Args:
        name: of the run.
        watched: what it has kept.
        steps: those that have the views.
        most: bytes of the page that the pictures may take; the last step is shown in any case, and
            the first one.
    """
    last = steps[-1]
    small = is_small(watched.images.pixels)
    originals = watched.images.pixels[: len(last["visible"])]
    side, exact, count = form_for(originals, last, most, small=small)
    chosen = [steps[i] for i in evenly(len(steps), min(MOST_STEPS, count))]
    changing = {view: [uris_of(step[view], side, exact) for step in chosen] for view in CHANGING}
    fixed = (uris_of(views, side, exact) for views in (originals, last["visible"]))
    cards = list[tuple[str, Sequence[Picture]]]()
    for i, (original, seen) in enumerate(zip(*fixed, strict=True)):
        called = watched.images.named(i)
        pictures = [
            Picture(view="original", uris=[original], alts=[f"{called}, original"]),
            Picture(view="visible", uris=[seen], alts=[f"{called}, visible patches"]),
        ]
        for view, uris in changing.items():
            alts = [f"{called}, {view} at step {step.step}" for step in chosen]
            pictures.append(Picture(view=view, uris=[each[i] for each in uris], alts=alts))
        cards.append((called, pictures))
    return Shown(
        name=name,
        steps=[step.step for step in chosen],
        left_out=len(steps) - len(chosen),
        small=small,
        cards=cards,
    )


def form_for(
    originals: UInt8[np.ndarray, "n 3 h w"], last: WatchedStep, most: int, *, small: bool
) -> tuple[int, bool, int]:
    """The form of pictures that leaves room for two steps, the best one, or else the last one.

    Args:
        originals: the images.
        last: the step whose pictures are measured.
        most: bytes that all pictures may take.
        small: whether pixels are to be seen as they are.

    Returns:
        The longer side, whether every pixel stays as it is, and the number of steps.
    """
    forms = [(SMALL, True), (SMALL, False)] if small else [(side, False) for side in SIDES]
    for side, exact in forms:
        fixed, cost = (
            sum(len(uri) for each in views for uri in uris_of(each, side, exact))
            for views in ([originals, last["visible"]], [last[view] for view in CHANGING])
        )
        if (count := (most - fixed) // cost) >= 2:
            return side, exact, count
    return *forms[-1], 2


def uris_of(pictures: UInt8[np.ndarray, "n 3 h w"], side: int, exact: bool) -> list[str]:
    """Encode pictures; see `data_uri`."""
    return [data_uri(picture, side, exact=exact) for picture in pictures]
