"""The claims of the paper, small: one change at a time to FCMAE on emoji, three pretrainings each.

Source of the claims: ConvNeXt V2 (arXiv 2301.00808), tables 1 and 2, figures 3 and 5 and section 5,
with ConvNeXt V2-Base on ImageNet-1K.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from scripts.reproducing import tables
from scripts.reproducing.data_sets import EMOJI
from scripts.reproducing.pretraining import pretraining
from scripts.reproducing.results import Results
from scripts.reproducing.runs import Run
from scripts.reproducing.setting import Setting
from scripts.reproducing.uses import frozen, tuned

NAME = "ablations"
STEPS = 2000  # of 32 images, 13 passes
TUNED_STEPS = 600
SEEDS = 3
PER_CLASS = 10
SHARES = (0.01, 0.05, 0.25, 1.0)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A change to the base, and what the paper says of it."""

    name: str
    """In the names of its runs."""
    title: str
    """What is changed, for people."""
    claim: str = ""
    """What the paper found, in its figures."""
    better: int = 0
    """What the paper found of the base: 1, it is better than this; 0, the two are level."""
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Flags of the pretraining."""
    altered: str = ""
    """An alteration that is no flag, see `scripts.reproducing.altered`."""
    cost: float = 1.0
    """Of a step, in those of the base."""
    distance: bool = False
    """Whether the feature distance of its blocks is measured."""

    def program(self, command: str) -> tuple[str, ...]:
        """What runs a command of fcmae for it."""
        return ("altered", self.altered, command) if self.altered else (command,)


BASE = Variant(name="base", title="FCMAE as the paper has it", distance=True)
DENSE = "sparse 83.7, dense 79.3"
UNWATCHED = {"watch.images": 0}  # what excites channels is shown of sparse encoders
RATIO = "0.5 to 0.7 good, 0.6 best"
VARIANTS = (
    Variant(
        name="zeros",
        title="dense encoder, zeros at hidden patches",
        claim=DENSE,
        better=1,
        flags=UNWATCHED,
        altered="zeros",
        cost=2.0,
    ),
    Variant(
        name="tokens",
        title="dense encoder, mask tokens at hidden patches",
        claim=DENSE,
        better=1,
        flags=UNWATCHED,
        altered="tokens",
        cost=2.0,
    ),
    Variant(
        name="no_grn",
        title="no GRN",
        claim="GRN 84.6, none 83.7",
        better=1,
        altered="no_grn",
        distance=True,
    ),
    Variant(
        name="v1",
        title="ConvNeXt V1",
        claim="V2 84.6, V1 83.7, whose features collapse",
        better=1,
        flags={"model.name": "convnext_atto"},
        distance=True,
    ),
    *(
        Variant(
            name=f"ratio_{ratio}",
            title=f"ratio {ratio}",
            claim=RATIO,
            better=int(ratio in (0.4, 0.8)),
            flags={"model.ratio": ratio},
            cost=(1 - ratio) / 0.4,
        )
        for ratio in (0.4, 0.5, 0.7, 0.8)
    ),
    Variant(
        name="decoder_4",
        title="decoder of four blocks",
        claim="depth 1 and 8 level",
        flags={"model.decoder_depth": 4},
        cost=1.3,
    ),
)


class Ablations:
    """The set of the paper's claims."""

    def runs(self, setting: Setting) -> list[Run]:
        """Pretrainings over seeds with their uses; the base also on parts of the labels."""
        made = [
            run
            for seed in range(setting.seeds(SEEDS))
            for variant in (BASE, *VARIANTS)
            for run in self.of(setting, variant, seed)
        ]
        data = setting.data[EMOJI.name]
        for share in SHARES:
            flags = {"starts": ("pretrained", "random"), "fractions": share}
            made.append(
                tuned(
                    setting,
                    data,
                    f"labels-{100 * share:g}pc",
                    made[0],
                    flags,
                    sizes=1,
                    draws=SEEDS,
                    steps=TUNED_STEPS,
                )
            )
        return made

    def of(self, setting: Setting, variant: Variant, seed: int) -> tuple[Run, Run, Run]:
        """A pretraining, and what is made of its weights, frozen and fine-tuned."""
        data = setting.data[EMOJI.name]
        name = f"{variant.name}-seed{seed}"
        flags = dict(variant.flags)
        if variant.distance:
            flags["watch.collapse_every"] = setting.steps(STEPS)
        start = pretraining(
            setting,
            data,
            name,
            flags,
            steps=STEPS,
            seed=seed,
            cost=variant.cost,
            program=variant.program("pretrain"),
        )
        labels = setting.per_class(PER_CLASS)
        probe = frozen(setting, data, f"{name}-frozen", start, labels, draws=1)
        fit = tuned(
            setting,
            data,
            f"{name}-tuned",
            start,
            labels,
            sizes=1,
            draws=1,
            steps=TUNED_STEPS,
            program=variant.program("few-shot"),
        )
        return start, probe, fit

    def table(self, results: Results) -> list[str]:
        """Each change beside the paper's claim, and parts of the labels."""
        base = Measured.of(results, BASE)
        rows = [[BASE.title, "", *base.cells(), ""]]
        for variant in VARIANTS:
            found = Measured.of(results, variant)
            said = verdict(base.tuned, found.tuned, variant.better)
            rows.append([variant.title, variant.claim, *found.cells(), said])
        text = (
            f"{EMOJI.title}, convnextv2_atto, {STEPS} steps of pretraining, {PER_CLASS} labels a"
            f" class, {SEEDS} pretrainings each with one draw of the labels"
        )
        columns = ["change", "in the paper", "frozen", "fine-tuned", "feature distance"]
        changes = tables.table([*columns, "fine-tuned, beside the paper"], rows)
        return tables.section(NAME, results, text, [changes, *self.labels(results)])

    def labels(self, results: Results) -> tuple[list[str], list[str]]:
        """From scratch against pretrained, on parts of the labels: what it is, and the table."""
        rows = []
        for share in SHARES:
            kept = results.kept(f"labels-{100 * share:g}pc")
            pretrained, random = (
                tables.measured(kept, f"{100 * share:g}pc {start} finetune", EMOJI.metric)
                for start in ("pretrained", "random")
            )
            said = verdict(pretrained, random, 1)
            rows.append([f"{100 * share:g} %", *map(tables.cell, (random, pretrained)), said])
        text = (
            f"Fine-tuned for {TUNED_STEPS} steps on parts of the labels, {SEEDS} draws; in the"
            " paper the pretrained network is better with all labels (76.7 and 76.2, atto):"
        )
        columns = ["labels", "from scratch", "pretrained", "beside the paper"]
        return [text], tables.table(columns, rows)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of the pretrainings of a variant, one value each."""

    frozen: Sequence[float]
    tuned: Sequence[float]
    distance: Sequence[float]
    """The smallest feature distance of a block at the end."""

    @staticmethod
    def of(results: Results, variant: Variant) -> "Measured":
        """The values of the pretrainings that are there."""
        names = [f"{variant.name}-seed{seed}" for seed in range(SEEDS)]
        frozen, tuned = (
            [
                value
                for name in names
                for values in tables.scores(results, f"{name}-{use}", EMOJI.metric, [PER_CLASS])
                for value in values
            ]
            for use in ("frozen", "tuned")
        )
        kept = map(results.kept, names)
        distance = [min(one["collapse"]) for one in kept if "collapse" in one]
        return Measured(frozen=frozen, tuned=tuned, distance=distance)

    def cells(self) -> list[str]:
        """The cells of its row."""
        distance = tables.cell(self.distance) if self.distance else ""
        return [tables.cell(self.frozen), tables.cell(self.tuned), distance]


def verdict(base: Sequence[float], other: Sequence[float], better: int) -> str:
    """What the difference of two means says of a claim, in words.

    Two means differ where they are more than two standard errors of the difference apart.

    Args:
        base: values of the one, two or more.
        other: those of the other.
        better: 1 if the claim is that the base is better, 0 if it is that they are level.
    """
    if min(len(base), len(other)) < 2:
        return ""
    difference = mean(base) - mean(other)
    error = math.sqrt(stdev(base) ** 2 / len(base) + stdev(other) ** 2 / len(other))
    found = 0 if abs(difference) <= 2 * error else int(math.copysign(1, difference))
    shown = f"{difference:+.3f}"
    if found == 0:
        return f"agrees: level ({shown})" if not better else f"cannot be told ({shown})"
    return f"{'agrees' if found == better else 'disagrees'} ({shown})"
