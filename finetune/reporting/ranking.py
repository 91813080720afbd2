"""Which figure without labels ranks encoders as labels do: Spearman's correlation over many runs.

A run's figures are those that probes and k-NN leave in their results (`finetune.frozen.figures`);
what it is ranked by is its accuracy, on few labels or on all of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchmetrics.functional import spearman_corrcoef

from fcmae.run.json_files import as_object, read_json
from fcmae.run.terminal import visible
from finetune.reporting.entries import kind_of
from finetune.reporting.measured import Spread, number_of

LEAST = 4  # runs of which a correlation is told
NAMES = {
    "rankme": "effective rank (RankMe)",
    "alpha_req": "alpha-ReQ, nearness to 1",
    "feature_distance": "feature distance",
}
BETTER: Mapping[str, Callable[[float], float]] = {
    "rankme": lambda rank: rank,
    "alpha_req": lambda alpha: -abs(alpha - 1),
    "feature_distance": lambda distance: distance,
}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A run as its results tell of it."""

    name: str
    """How it is called."""
    figures: Mapping[tuple[str, str], float]
    """The figures without labels, by name and by what was pooled."""
    accuracies: Mapping[str, float]
    """The means over seeds of what is measured with labels, by what it is of."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """How well a figure ranks runs as an accuracy does."""

    figure: str
    """The figure, in words."""
    accuracy: str
    """What the accuracy is of."""
    runs: int
    """The number of runs that have both."""
    correlation: float | None
    """Spearman's rank correlation; None where all runs have one value."""


def judged_by_files(name: str, files: Sequence[Path]) -> Judged:
    """Read what the results of one run tell of it.

    Args:
        name: of the run.
        files: of JSON, which linear probes, k-NN and learning from few labels have written.

    Raises:
        OSError, ValueError: a file cannot be read, or is damaged.
    """
    return judged(name, [read_json(file, dict) for file in files])


def judged(name: str, results: Sequence[Mapping[str, Any]]) -> Judged:
    """Collect what results tell of a run; those of a random start count where no others are.

    Of several that tell the same, the one of the latest step of pretraining counts, and of these
    the last.

    Args:
        name: of the run.
        results: the contents of files; those of other programs tell nothing.

    Raises:
        ValueError: a result is damaged.
    """
    known = [result for result in results if kind_of(result) in KINDS]
    own = [result for result in known if result.get("weights") != "none"] or known
    figures: dict[tuple[str, str], float] = {}
    accuracies: dict[str, float] = {}
    for result in sorted(own, key=step_of):
        pool = visible(str(result.get("pool", "last")))  # earlier versions do not tell it
        told = {name: number_of(result.get(name)) for name in NAMES}
        figures |= {(name, pool): value for name, value in told.items() if value is not None}
        for what, spread in KINDS[kind_of(result)](result):
            if spread.mean is not None:
                accuracies[with_pool(what, pool)] = spread.mean
    return Judged(name=name, figures=figures, accuracies=accuracies)


def of_all_labels(result: Mapping[str, Any]) -> Iterator[tuple[str, Spread]]:
    """The accuracy of a probe or of k-NN, and what it is of."""
    yield f"{kind_of(result)}, all labels", Spread.of_json(result["test_accuracy"])


def of_few_labels(result: Mapping[str, Any]) -> Iterator[tuple[str, Spread]]:
    """The measures of learning from few labels, and what each is of; a random start is left out.

    Where nothing else has been learned from, it is not.
    """
    metric = visible(str(result["metric"]))
    measure = "" if metric == "accuracy" else f", {metric.replace('_', ' ')}"
    for label, row in as_object(result["results"]).items():
        for curve, value in as_object(row).items():
            start, _, method = curve.rpartition(" ")
            if start != "random" or result.get("weights") == "none":
                yield visible(f"{method}, {label}{measure}"), Spread.of_json(value)


KINDS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[tuple[str, Spread]]]] = {
    "linear probe": of_all_labels,
    "k-NN": of_all_labels,
    "few labels": of_few_labels,
}


def step_of(result: Mapping[str, Any]) -> int:
    """The step of pretraining of a result; -1 if it does not tell."""
    step = result.get("step")
    return step if isinstance(step, int) else -1


def with_pool(what: str, pool: str) -> str:
    """What a number is of, with what was pooled, unless that is the mean of the last map."""
    return what if pool == "last" else f"{what}, {pool}"


def ranking(runs: Sequence[Judged]) -> list[Ranked]:
    """Correlate each figure with each accuracy, over the runs that have both, if `LEAST` do."""
    figures = dict.fromkeys(figure for run in runs for figure in run.figures)
    accuracies = dict.fromkeys(accuracy for run in runs for accuracy in run.accuracies)
    found: list[Ranked] = []
    for name, pool in figures:
        for accuracy in accuracies:
            both = [
                (BETTER[name](run.figures[name, pool]), run.accuracies[accuracy])
                for run in runs
                if (name, pool) in run.figures and accuracy in run.accuracies
            ]
            if len(both) >= LEAST:
                found.append(
                    Ranked(
                        figure=with_pool(NAMES[name], pool),
                        accuracy=accuracy,
                        runs=len(both),
                        correlation=spearman(*zip(*both, strict=True)),
                    )
                )
    return found


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties having their mean rank; None if one side is constant."""
    if len(set(one)) == 1 or len(set(other)) == 1:
        return None
    sides = (torch.tensor(side, dtype=torch.float64) for side in (one, other))
    return spearman_corrcoef(*sides).item()


def ranking_table(runs: Sequence[Judged]) -> tuple[list[str], list[list[str]]] | None:
    """The correlations as a table: a figure a row, what it is compared with a column.

    Returns:
        Heads and rows; None where fewer than `LEAST` runs have a figure and an accuracy.
    """
    found = ranking(runs)
    if not found:
        return None
    cells = {(row.figure, row.accuracy): told(row) for row in found}
    accuracies = list(dict.fromkeys(row.accuracy for row in found))
    rows = [
        [figure, *(cells.get((figure, accuracy), "") for accuracy in accuracies)]
        for figure in dict.fromkeys(row.figure for row in found)
    ]
    return ["figure", *accuracies], rows


def told(ranked: Ranked) -> str:
    """A correlation and its number of runs, as tables show them."""
    value = "not defined" if ranked.correlation is None else f"{ranked.correlation:+.2f}"
    return f"{value} ({ranked.runs} runs)"


def figures_table(runs: Sequence[Judged]) -> tuple[list[str], list[list[str]]] | None:
    """The figures of each run as a table; None where no run has any."""
    figures = list(dict.fromkeys(figure for run in runs for figure in run.figures))
    if not figures:
        return None
    heads = ["run", *(with_pool(NAMES[name].partition(",")[0], pool) for name, pool in figures)]
    rows = [
        [run.name, *(f"{run.figures[f]:.4g}" if f in run.figures else "" for f in figures)]
        for run in runs
        if run.figures
    ]
    return heads, rows
