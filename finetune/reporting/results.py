"""The results of a report: probes, k-NN, fine-tuning, segmentation, few labels, beside baselines.

Each is a mean and a standard deviation over seeds, with the value of each seed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from finetune.reporting import class_charts
from finetune.reporting.by_class import by_class
from finetune.reporting.entries import Entry, found_beside
from finetune.reporting.ranking import Judged, figures_table, judged, ranking_table
from finetune.reporting.record import RunRecord
from finetune.reporting.result_charts import (
    KINDS,
    PRIMARY,
    kind_of,
    label_chart,
    label_row,
    score_chart,
    scores_of,
)
from finetune.reporting.result_tables import label_tables, name_of, tables_of
from finetune.reporting.section import Section, render


def section(runs: Sequence[RunRecord]) -> Section | None:
    """Show the results beside runs; None if there are none."""
    found = found_beside(runs)
    if not (found.entries or found.points or found.problems):
        return None
    names = [run.name for run in runs]
    several = len(names) > 1
    scores = list(scores_of(found.entries, several))
    classes = by_class(found.entries, several)
    bars = {
        key: sum(row["measure"] == key and row["mean"] is not None for row in scores)
        for key in PRIMARY
    }
    drawn = {key: title for key, title in PRIMARY.items() if bars[key]}
    metrics = list(dict.fromkeys(p.metric for p in found.points if p.value.mean is not None))
    charts = {f"scores-{key}": score_chart(key, bars[key], names) for key in drawn}
    charts |= {f"labels-{i}": label_chart(metric, names) for i, metric in enumerate(metrics)}
    if classes.menu:
        charts |= class_charts.charts(classes.menu[0]["title"])
    return Section(
        name="results",
        title="Results",
        body=render(
            "results.html",
            names=names,
            problems=found.problems,
            best=best_of(found.entries),
            tables=[
                *tables_of(found.entries, several),
                *label_tables(found.points, several),
                *figure_tables(runs),
            ],
            drawn=drawn,
            metrics=[name_of(metric) for metric in metrics],
            menu=classes.menu,
        ),
        charts=charts,
        data={
            "scores": scores,
            "labels": [label_row(point) for point in found.points],
            "menu": classes.menu,
            "classes": classes.bars,
            "cells": classes.cells,
            "pairs": classes.pairs,
        },
        script="results.js",
    )


def figure_tables(runs: Sequence[RunRecord]) -> Iterator[Mapping[str, Any]]:
    """The figures without labels of each run, and how well they rank the runs."""
    known = list(map(judged_by_record, runs))
    captions = {
        "Figures without labels": figures_table(known),
        "How well figures without labels rank the runs: Spearman's correlation with accuracies on"
        " the test, +1 for the same order": ranking_table(known),
    }
    for caption, table in captions.items():
        if table is not None:
            heads, rows = table
            yield {"caption": caption, "heads": heads, "rows": rows}


def judged_by_record(run: RunRecord) -> Judged:
    """What the results beside a run tell of it; one with damaged numbers tells nothing."""
    whole: list[Mapping[str, Any]] = []
    for result in run.results:
        with suppress(ValueError):
            judged(run.name, [result.content])
            whole.append(result.content)
    return judged(run.name, whole)


def best_of(entries: Sequence[Entry]) -> str:
    """A sentence that compares the best accuracy of weights with the best without them.

    It is empty where one of them is missing, or they are not of as many test samples.
    """
    scored = [(e.measures["accuracy"].mean, e) for e in entries if "accuracy" in e.measures]
    known = [(mean, entry) for mean, entry in scored if mean is not None]
    sides = (
        [row for row in known if (kind_of(row[1]) == KINDS[0]) is own] for own in (True, False)
    )
    ours, others = (max(side, key=lambda row: row[0], default=None) for side in sides)
    if ours is None or others is None or ours[1].reported != others[1].reported:
        return ""
    (best, entry), (other, rival) = ours, others
    sign = "above" if best > other else "below" if best < other else "equal to"
    return (
        f"The best accuracy with pretrained weights is {best:.4f} ({entry.name}, {entry.method}),"
        f" {f'{abs(best - other):.4f} ' if best != other else ''}{sign} the best without them"
        f" ({rival.name}, {rival.method}, {other:.4f})."
    )
