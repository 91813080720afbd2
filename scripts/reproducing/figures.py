"""Which figure without labels ranks the pretrainings of the search as few labels do."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

from finetune.reporting.ranking import BETTER, LEAST, NAMES, spearman
from scripts.reproducing import tables

LOSS = "reconstruction"
HEADS = {**NAMES, LOSS: "reconstruction loss"}
HIGHER: Mapping[str, Callable[[float], float]] = {**BETTER, LOSS: lambda loss: -loss}


def figures_of(kept: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a pretraining at its end, those of its last block or of the watched images.

    Args:
        kept: what is kept of it, see `scripts.reproducing.pretraining.kept_of`.
    """
    known = {name: kept[name] for name in ("rankme", "alpha_req", LOSS) if name in kept}
    known.setdefault(LOSS, kept["loss"])  # there is no other term
    return known | ({"feature_distance": kept["collapse"][-1]} if "collapse" in kept else {})


def ranking(judged: Sequence[tuple[Mapping[str, Any], Sequence[Sequence[float]]]]) -> list[str]:
    """The table of Spearman's correlation of each figure with the accuracy; none of few runs.

    Args:
        judged: what is kept of each pretraining, and the accuracies of its frozen features over
            draws, for each number of labels.
    """
    rows = []
    for name, head in HEADS.items():
        both = [
            (HIGHER[name](figures_of(kept)[name]), mean(map(mean, scores)))
            for kept, scores in judged
            if scores and kept and name in figures_of(kept)
        ]
        if len(both) >= LEAST:
            correlation = spearman(*zip(*both, strict=True))
            shown = "not defined" if correlation is None else f"{correlation:+.2f}"
            rows.append([head, len(both), shown])
    columns = ["figure without labels", "pretrainings", "Spearman's correlation with accuracy"]
    return tables.table(columns, rows) if rows else []
