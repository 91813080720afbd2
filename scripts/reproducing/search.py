"""The search for the recipe for few labels: one change at a time, on held-out training groups.

The test side is never read. A trial is a pretraining, compared by the frozen use that was best when
the search began; a use is what is made of the weights of two of them. All of it computes in
bfloat16, which takes less time where processors multiply in it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from scripts.reproducing import tables
from scripts.reproducing.data_sets import DATA_SETS, DataSet
from scripts.reproducing.figures import ranking
from scripts.reproducing.pretraining import BF16, BF16_COST, pretraining
from scripts.reproducing.results import Results
from scripts.reproducing.runs import Run
from scripts.reproducing.setting import Setting
from scripts.reproducing.uses import RANDOM, frozen, tuned

NAME = "few_labels"
VIEWS = 48_000  # that a trial of length 1 encodes: 6 passes over the glyphs, 10 over emoji
PER_CLASS = (5, 10)
DRAWS = 2  # of the labels, for fine-tuning
GRID = {"pool": "grid2", "probe_classifier": "ridge"}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A pretraining of the search."""

    name: str
    """In the names of its runs, and in the table."""
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Flags of the pretraining, over those of the recipe."""
    length: float = 1.0
    """Views that it encodes, in those of the base."""
    start: str = ""
    """The trial whose weights it goes on from; empty for none."""
    batch: float = 1.0
    """Samples of a step, in those of the recipe, with which the learning rate grows."""
    rate: float = 1.0
    """Peak learning rate, in that of the recipe."""

    @property
    def views(self) -> int:
        """Views that a sample gives."""
        return 2 if self.flags.get("model.contrast.weight") else 1

    def of(self, data: DataSet) -> dict[str, Any]:
        """Its flags on a data set."""
        own = dict(self.flags)
        if self.batch != 1:
            own["optim.batch_size"] = round(self.batch * data.batch)
        if self.rate != 1:
            own["optim.base_lr"] = self.rate * data.base_lr
        return own

    def steps(self, data: DataSet) -> int:
        """Length in steps: the views are the same whatever the batch is."""
        batch = round(self.batch * data.batch)
        return max(1, round(self.length * VIEWS / (batch * self.views)))


@dataclass(frozen=True, kw_only=True)
class Use:
    """A use of weights in the search."""

    name: str
    """In the names of its runs, and in the table."""
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Flags of `finetune.few_shot`."""


def term(weight: float, **others: Any) -> dict[str, Any]:
    """The flags of the second term."""
    named = {f"model.contrast.{name}": value for name, value in others.items()}
    return {"model.contrast.weight": weight, **named}


TRIALS = (
    Trial(name="base"),
    *(Trial(name=f"weight {w}", flags=term(w)) for w in (0.1, 0.3, 1.0)),
    Trial(name="after, weight 0.1", flags=term(0.1), length=0.3, start="base"),
    Trial(name="after, weight 0", length=0.3, start="base"),
    Trial(name="weight 0.3, temperature 0.1", flags=term(0.3, temperature=0.1)),
    Trial(name="weight 0.3, neighbours", flags=term(0.3, neighbours=1024)),
    Trial(name="weight 0.3, not flipped", flags={**term(0.3), "data.flip": False}),
    Trial(
        name="weight 0.3, turned and jittered",
        flags={
            **term(0.3),
            **{"data.jitter.rotate": 9, "data.jitter.brightness": 0.4, "data.jitter.contrast": 0.4},
        },
    ),
    Trial(name="weight 0.3, batch halved", flags=term(0.3), batch=0.5),
    *(Trial(name=f"ratio {r}", flags={"model.ratio": r}) for r in (0.4, 0.75)),
    Trial(name="weight 0.3, scale from 0.5", flags={**term(0.3), "data.scale": (0.5, 1.0)}),
    Trial(name="rate doubled", rate=2),
    Trial(name="decoder of 128", flags={"model.decoder_dim": 128}),
    Trial(name="length 4, weight 0.3", flags=term(0.3), length=4.0),
)
USED = ("base", "weight 0.3")  # whose weights the uses are tried on
FROZEN = (
    *(
        Use(name=f"{pool}, {classifier}", flags={"pool": pool, "probe_classifier": classifier})
        for pool in ("last", "grid2")
        for classifier in ("linear", "ridge", "nearest")
        if (pool, classifier) != tuple(GRID.values())  # which all trials have
    ),
    *(
        Use(name=f"{pool}, ridge", flags={"pool": pool, "probe_classifier": "ridge"})
        for pool in ("stages", "grid3")
    ),
    Use(name="grid2, ridge, standardised", flags={**GRID, "probe_features": "standardised"}),
)
TUNED = (
    Use(name="recipe"),
    Use(name="grid2", flags={"pool": "grid2"}),
    Use(name="rate times 4", flags={"optim.base_lr": 1.6e-2}),
    Use(name="not flipped", flags={"augment.flip": False}),
    Use(
        name="grid2, rate times 4, not flipped",
        flags={"pool": "grid2", "optim.base_lr": 1.6e-2, "augment.flip": False},
    ),
    Use(name="layer decay 1", flags={"optim.layer_decay": 1.0}),
    Use(name="frozen at first", flags={"optim.frozen_steps": 100}),
)


def slug(name: str) -> str:
    """A name as files have it."""
    return name.replace(", ", "-").replace(" ", "_")


class Search:
    """The set of the search."""

    def runs(self, setting: Setting) -> list[Run]:
        """All trials on each data set, and the uses of the weights of some."""
        return [run for data in setting.data.values() for run in self.of(setting, data)]

    def of(self, setting: Setting, data: DataSet) -> Iterator[Run]:
        """The runs of a data set."""
        labels = {"report_on": "held_out", **setting.per_class(*PER_CLASS), **BF16}
        starts = dict[str, Run]()
        for trial in TRIALS:
            name = f"{data.name}-{slug(trial.name)}"
            start = starts[trial.name] = pretraining(
                setting,
                data,
                name,
                {
                    "watch.collapse_every": setting.steps(trial.steps(data)),
                    **trial.of(data),
                    **BF16,
                },
                steps=trial.steps(data),
                cost=trial.views * BF16_COST,
                start=starts.get(trial.start),
                stripped=all(trial.name != other.start for other in TRIALS),
            )
            yield start
            yield frozen(setting, data, f"{name}-frozen", start, {**GRID, **labels})
        for trial in USED:
            start = starts[trial]
            for use in FROZEN:
                name = f"{start.name}-frozen-{slug(use.name)}"
                yield frozen(setting, data, name, start, {**use.flags, **labels})
            for use in TUNED:
                name = f"{start.name}-tuned-{slug(use.name)}"
                yield self.tuned(setting, data, name, start, {**use.flags, **labels})
        random = {"starts": RANDOM, **labels}
        base = starts["base"]  # whose model it has
        yield frozen(setting, data, f"{data.name}-{RANDOM}-frozen", base, {**GRID, **random})
        for use in TUNED:
            name = f"{data.name}-{RANDOM}-tuned-{slug(use.name)}"
            yield self.tuned(setting, data, name, base, {**use.flags, **random})

    def tuned(
        self, setting: Setting, data: DataSet, name: str, start: Run, flags: Mapping[str, Any]
    ) -> Run:
        """A fine-tuning of the search."""
        return tuned(setting, data, name, start, flags, sizes=len(PER_CLASS), draws=DRAWS)

    def table(self, results: Results) -> list[str]:
        """Trials and uses of each data set that has some, the best of each in bold."""
        text = (
            "trials on held-out training groups, one pretraining each, frozen features over 5 draws"
            f" of the labels and fine-tuning over {DRAWS}"
        )
        blocks = list[list[str]]()
        for data in DATA_SETS.values():
            trials = {t.name: self.scores(results, data, f"{slug(t.name)}-frozen") for t in TRIALS}
            if any(trials.values()):
                blocks += self.compared(results, data, trials)
        return tables.section(NAME, results, text, blocks)

    def compared(
        self, results: Results, data: DataSet, trials: Mapping[str, list[list[float]]]
    ) -> Iterator[list[str]]:
        """The blocks of a data set: its trials, then the uses of the weights of some."""
        yield [f"{data.title}; frozen features, 5 and 10 labels a class:"]
        columns = [f"{k} labels" for k in PER_CLASS]
        figures = ("reconstruction", "rankme", "alpha_req")
        best = chosen(trials)
        rows = []
        random = self.scores(results, data, "random-frozen", "random")
        for name, scores in {"random": random, **trials}.items():
            kept = results.kept(f"{data.name}-{slug(name)}")
            if "loss" in kept:
                kept = {"reconstruction": kept["loss"], **kept}  # which is all of the loss, or not
            told = [f"{kept[f]:.3g}" if f in kept else "" for f in figures]
            rows.append([bold(name, best), *(self.cells(scores)), *told])
        yield tables.table(["pretraining", *columns, *figures], rows)
        judged = [(results.kept(f"{data.name}-{slug(t)}"), scores) for t, scores in trials.items()]
        yield ranking(judged)
        for trial, kind, uses in (
            *((trial, "frozen", FROZEN) for trial in USED),
            *((trial, "tuned", TUNED) for trial in (*USED, RANDOM)),
        ):
            prefix = f"{slug(trial)}-{kind}"
            origin = "random" if trial == RANDOM else "pretrained"
            found = {
                use.name: self.scores(results, data, f"{prefix}-{slug(use.name)}", origin)
                for use in uses
            }
            if not any(found.values()):
                continue
            if kind == "frozen":
                found["grid2, ridge"] = self.scores(results, data, prefix)
            best = chosen(found)
            rows = [[bold(name, best), *self.cells(one)] for name, one in found.items()]
            yield tables.table([f"{kind}, of {trial}", *columns], rows)

    def scores(
        self, results: Results, data: DataSet, name: str, start: str = "pretrained"
    ) -> list[list[float]]:
        """The values of a use over draws, for each number of labels; empty if it has not run."""
        found = tables.scores(results, f"{data.name}-{name}", data.metric, PER_CLASS, start)
        return found if all(found) else []

    def cells(self, scores: list[list[float]]) -> list[str]:
        """The cells of a row."""
        return [tables.cell(values) for values in scores or [[] for _ in PER_CLASS]]


def chosen(scores: Mapping[str, list[list[float]]]) -> str:
    """The name of the best: the mean over numbers of labels and draws decides."""
    known = {name: values for name, values in scores.items() if values}
    return max(known, key=lambda name: mean(map(mean, known[name]))) if known else ""


def bold(name: str, best: str) -> str:
    """A name, in bold if it is the best."""
    return f"**{name}**" if name == best else name
