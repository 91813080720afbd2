"""How long is long enough: accuracy on few labels against passes over the data, with both terms.

Each length is a pretraining of its own, whose rate falls to zero at its end. Beside them stand a
random start in the same uses, and what is learned of plain features.
"""

from collections.abc import Iterator
from typing import Any

from scripts.reproducing import tables
from scripts.reproducing.data_sets import DATA_SETS, DataSet
from scripts.reproducing.pretraining import BF16, BF16_COST, pretraining
from scripts.reproducing.results import Results
from scripts.reproducing.runs import Run
from scripts.reproducing.setting import Setting
from scripts.reproducing.uses import RANDOM, frozen, plain_features, tuned

NAME = "length"
PASSES = {"emoji": (2, 10, 40, 120), "glyphs": (2, 8, 25, 75), "parts": (2, 7, 28, 112)}
TERMS = {"fcmae": 0.0, "contrast": 0.3}  # weight of the second term
PER_CLASS = (5, 10)
POOLS = ("last", "grid2")


class Length:
    """The set of lengths."""

    def runs(self, setting: Setting) -> list[Run]:
        """What is learned without pretraining, then each length and term, the shortest first."""
        return [run for name in PASSES if name in setting.data for run in self.of(setting, name)]

    def of(self, setting: Setting, name: str) -> Iterator[Run]:
        """The runs on a data set."""
        data = setting.data[name]
        starts = [
            self.start(setting, data, passes, term) for passes in PASSES[name] for term in TERMS
        ]
        yield plain_features(setting, data, f"{name}-plain", PER_CLASS)
        yield from self.uses(setting, data, f"{name}-{RANDOM}", starts[0], RANDOM)
        for start in starts:
            yield start
            yield from self.uses(setting, data, start.name, start)

    def start(self, setting: Setting, data: DataSet, passes: int, term: str) -> Run:
        """A pretraining."""
        name = f"{data.name}-{term}-{passes}"
        weight = TERMS[term]
        flags = {"model.contrast.weight": weight, **BF16} if weight else BF16
        views = 2 if weight else 1  # a sample gives two in a step: half the steps, the same time
        steps = round(passes * data.images / (data.batch * views))
        return pretraining(setting, data, name, flags, steps=steps, cost=views * BF16_COST)

    def uses(
        self, setting: Setting, data: DataSet, name: str, start: Run, origin: str = "pretrained"
    ) -> Iterator[Run]:
        """What is made of the weights of a pretraining, or of a random start of its model."""
        labels = {"starts": origin, **setting.per_class(*PER_CLASS)}
        for pool in POOLS:
            yield frozen(setting, data, f"{name}-{pool}", start, {"pool": pool, **labels})
        flags = {**data.tuning, **labels, **BF16}
        yield tuned(setting, data, f"{name}-tuned", start, flags, sizes=len(PER_CLASS))

    def table(self, results: Results) -> list[str]:
        """For each data set, lengths and terms with their accuracies and hours."""
        uses = [f"{use}, {k}" for use in (*POOLS, "fine-tuned") for k in PER_CLASS]
        columns = ["passes", "terms", "hours", *uses]
        text = "the means of cells side by side in grid2, fine-tuning over three draws"
        blocks = list[list[str]]()
        for name in PASSES:
            data = DATA_SETS[name]
            rows = list(self.rows(results, data))
            plain = results.kept(f"{name}-plain")
            if rows or plain:
                blocks.append([f"{data.title}; 5 and 10 labels a class, {text}:"])
            if rows:
                blocks.append(tables.table(columns, rows))
            if plain:
                heads = ["without an encoder", *(f"{k} labels" for k in PER_CLASS)]
                blocks.append(tables.table(heads, plain_rows(plain, data)))
        text = "passes over the data, seen as views, atto"
        return tables.section(NAME, results, text, blocks)

    def rows(self, results: Results, data: DataSet) -> Iterator[list[str]]:
        """The rows of a data set: the random start, and each pretraining that has run."""
        name = f"{data.name}-{RANDOM}"
        if f"{name}-tuned" in results:
            yield ["0", "random start", "", *self.cells(results, data, name, RANDOM)]
        for passes in PASSES[data.name]:
            for term in TERMS:
                name = f"{data.name}-{term}-{passes}"
                if name in results:
                    hours = f"{results.entries[name].seconds / 3600:.2f}"
                    said = "reconstruction" if term == "fcmae" else "both"
                    yield [str(passes), said, hours, *self.cells(results, data, name)]

    def cells(
        self, results: Results, data: DataSet, name: str, origin: str = "pretrained"
    ) -> list[str]:
        """The accuracies of all uses of a start."""
        return [
            tables.cell(values)
            for use in (*POOLS, "tuned")
            for values in tables.scores(results, f"{name}-{use}", data.metric, PER_CLASS, origin)
        ]


def plain_rows(kept: dict[str, Any], data: DataSet) -> list[list[str]]:
    """The rows of what is learned without an encoder, see `learned_in`."""
    rows = []
    for title in dict.fromkeys(key.partition(" ")[2] for key in kept):
        of = (tables.measured(kept, f"{k}_per_class {title}", data.metric) for k in PER_CLASS)
        rows.append([title, *map(tables.cell, of)])
    return rows
