"""How long is long enough: accuracy on few labels against passes over the data, with both terms.

Each length is a pretraining of its own, whose rate falls to zero at its end.
"""

from collections.abc import Iterator

from scripts.reproducing import tables
from scripts.reproducing.data_sets import DATA_SETS, DataSet
from scripts.reproducing.pretraining import BF16, BF16_COST, pretraining
from scripts.reproducing.results import Results
from scripts.reproducing.runs import Run
from scripts.reproducing.setting import Setting
from scripts.reproducing.uses import frozen, tuned

NAME = "length"
PASSES = {"emoji": (2, 10, 40, 120), "glyphs": (2, 8, 25, 75)}
TERMS = {"fcmae": 0.0, "contrast": 0.3}  # weight of the second term
PER_CLASS = (5, 10)
POOLS = ("last", "grid2")


class Length:
    """The set of lengths."""

    def runs(self, setting: Setting) -> list[Run]:
        """A pretraining for each length and term, the shortest first, and its uses."""
        return [
            run
            for name, data in setting.data.items()
            for passes in PASSES.get(name, ())
            for term in TERMS
            for run in self.of(setting, data, passes, term)
        ]

    def of(self, setting: Setting, data: DataSet, passes: int, term: str) -> Iterator[Run]:
        """A pretraining, and what is made of its weights."""
        name = f"{data.name}-{term}-{passes}"
        weight = TERMS[term]
        flags = {"model.contrast.weight": weight, **BF16} if weight else BF16
        views = 2 if weight else 1  # a sample gives two in a step: half the steps, the same time
        steps = round(passes * data.images / (data.batch * views))
        start = pretraining(setting, data, name, flags, steps=steps, cost=views * BF16_COST)
        yield start
        labels = setting.per_class(*PER_CLASS)
        for pool in POOLS:
            yield frozen(setting, data, f"{name}-{pool}", start, {"pool": pool, **labels})
        flags = {**labels, **BF16}
        yield tuned(setting, data, f"{name}-tuned", start, flags, sizes=len(PER_CLASS))

    def table(self, results: Results) -> list[str]:
        """For each data set, lengths and terms with their accuracies and hours."""
        uses = [f"{use}, {k}" for use in (*POOLS, "fine-tuned") for k in PER_CLASS]
        columns = ["passes", "terms", "hours", *uses]
        text = "the means of cells side by side in grid2, fine-tuning over three draws"
        blocks = list[list[str]]()
        for name in PASSES:
            rows = list(self.rows(results, DATA_SETS[name]))
            if rows:
                blocks.append([f"{DATA_SETS[name].title}; 5 and 10 labels a class, {text}:"])
                blocks.append(tables.table(columns, rows))
        text = "passes over the data, seen as views, atto"
        return tables.section(NAME, results, text, blocks)

    def rows(self, results: Results, data: DataSet) -> Iterator[list[str]]:
        """The rows of a data set, one for each pretraining that has run."""
        for passes in PASSES[data.name]:
            for term in TERMS:
                name = f"{data.name}-{term}-{passes}"
                if name not in results:
                    continue
                hours = f"{results.entries[name].seconds / 3600:.2f}"
                said = "reconstruction" if term == "fcmae" else "both"
                cells = [
                    tables.cell(values)
                    for use in (*POOLS, "tuned")
                    for values in tables.scores(results, f"{name}-{use}", data.metric, PER_CLASS)
                ]
                yield [str(passes), said, hours, *cells]
