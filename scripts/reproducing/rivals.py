"""FCMAE against others on the same seconds of a processor: with a second term, MAE, masked ResNet,
and SimCLR, which masks nothing.

Two short runs of each tell what a step costs, and thereby how many steps the budget has. Seconds
are those that processors spend, on the main process and on data workers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from statistics import mean
from typing import Any

from scripts.reproducing import tables
from scripts.reproducing.data_sets import DATA_SETS, DataSet
from scripts.reproducing.pretraining import IMAGES_PER_S, pretraining
from scripts.reproducing.results import Results
from scripts.reproducing.runs import Run
from scripts.reproducing.setting import Setting
from scripts.reproducing.uses import frozen, tuned

NAME = "rivals"
BUDGET = 2400.0  # processor seconds of a pretraining, 20 minutes of two cores
TIMED = (10, 60)  # steps of the two short runs
PER_CLASS = (5, 10)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to pretrain without labels."""

    name: str
    """In the names of its runs."""
    title: str
    """What it is, for people."""
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Flags of the pretraining, over those of the recipe."""
    program: str = "pretrain"
    """What trains."""
    rate: float | None = None
    """Peak learning rate; None for that of the recipe."""

    def of(self, data: DataSet) -> dict[str, Any]:
        """Its flags on a data set, without what is measured on the way, which takes seconds."""
        own = {**self.flags, "watch.images": 0}
        if self.rate is None:
            return own
        return own | {"optim.base_lr": self.rate * 256 / own.get("optim.batch_size", data.batch)}


METHODS = (
    Method(name="fcmae", title="FCMAE, ConvNeXt V2 atto"),
    Method(
        name="contrast",
        title="FCMAE with the second term, ConvNeXt V2 atto",
        flags={"model.contrast.weight": 0.3},
    ),
    Method(
        name="mae",
        title="MAE, ViT-Ti",
        flags={
            "model.name": "mae_vit_tiny",
            "model.ratio": 0.75,
            "model.decoder_dim": 192,
            "model.decoder_depth": 4,
        },
        rate=5e-4,
    ),
    Method(name="resnet18", title="masked ResNet-18", flags={"model.name": "timm:resnet18"}),
    Method(
        name="simclr",
        title="SimCLR, ConvNeXt V2 atto on whole images",
        flags={"optim.batch_size": 64},
        rate=1e-3,
        program="simclr",
    ),
)


class Rivals:
    """The set of rivals."""

    def runs(self, setting: Setting) -> list[Run]:
        """For each data set and method: two that are timed, a pretraining, and its uses."""
        return [
            run
            for data in setting.data.values()
            for method in METHODS
            for run in self.of(setting, data, method)
        ]

    def of(self, setting: Setting, data: DataSet, method: Method) -> Iterator[Run]:
        """The runs of a method on a data set."""
        name = f"{data.name}-{method.name}"
        make = partial(
            pretraining,
            setting,
            data,
            flags=method.of(data),
            program=(method.program,),
        )
        timed = [make(name=f"{name}-{steps}-steps", steps=steps) for steps in TIMED]
        yield from timed
        start = make(
            name=name,
            steps=partial(affordable, timed=timed),
            images=BUDGET / 2 * IMAGES_PER_S,
            after=timed,
        )
        yield start
        labels = setting.per_class(*PER_CLASS)
        yield frozen(setting, data, f"{name}-frozen", start, labels)
        flags = {**data.tuning, **labels}
        yield tuned(setting, data, f"{name}-tuned", start, flags, sizes=len(PER_CLASS))

    def table(self, results: Results) -> list[str]:
        """For each data set, the methods, and which of them wins where."""
        text = f"pretraining of {BUDGET:g} processor seconds each, fine-tuning over three draws"
        blocks = list[list[str]]()
        for data in DATA_SETS.values():
            scores = {method.name: self.scores(results, data, method) for method in METHODS}
            if any(map(any, scores.values())):
                blocks += self.compared(results, data, scores)
        return tables.section(NAME, results, text, blocks)

    def compared(
        self, results: Results, data: DataSet, scores: Mapping[str, list[list[float]]]
    ) -> Iterator[list[str]]:
        """The blocks of a data set."""
        uses = [f"{use}, {k} labels" for use in ("frozen", "fine-tuned") for k in PER_CLASS]
        rows = []
        for method in METHODS:
            entry = results.entries.get(f"{data.name}-{method.name}")
            spent = ["not run"] * 3
            if entry is not None:
                counted = (entry.kept["steps"], entry.kept["images"], entry.processor_seconds)
                spent = [f"{value:,.0f}" for value in counted]
            rows.append([method.title, *spent, *map(tables.cell, scores[method.name])])
        measure = data.metric.replace("_", " ")
        yield [f"{data.title}, {measure}, {' and '.join(map(str, PER_CLASS))} labels a class:"]
        yield tables.table(["method", "steps", "images", "processor s", *uses], rows)
        winners = []
        for place, use in enumerate(uses):
            known = {m.title: scores[m.name][place] for m in METHODS if scores[m.name][place]}
            if known:
                winners.append(f"{use}: {max(known, key=lambda title: mean(known[title]))}")
        yield [f"Best: {'; '.join(winners)}."]

    def scores(self, results: Results, data: DataSet, method: Method) -> list[list[float]]:
        """The values over draws, by use and number of labels."""
        name = f"{data.name}-{method.name}"
        return [
            values
            for use in ("frozen", "tuned")
            for values in tables.scores(results, f"{name}-{use}", data.metric, PER_CLASS)
        ]


def affordable(results: Results, timed: list[Run]) -> int:
    """How many steps the budget has, by what two short runs of a method have cost.

    Args:
        results: which have the short runs.
        timed: the shorter and the longer one.
    """
    shorter, longer = (results.entries[run.name] for run in timed)
    more = longer.kept["steps"] - shorter.kept["steps"]
    step = max(longer.processor_seconds - shorter.processor_seconds, 1e-3) / max(more, 1)
    begin = shorter.processor_seconds - step * shorter.kept["steps"]
    return max(1, int((BUDGET - begin) / step))
