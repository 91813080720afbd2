"""The rules by which a report calls a run healthy: each finds one thing, and what would help."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from finetune.reporting.record import RunRecord, step_in

FEWEST = 20  # lines of metrics, below which nothing is said of a course
FALL = 0.02  # share by which a loss has to fall
RISE = 0.1  # share by which it may rise above the best that it was
WAIT = 0.2  # share of the time
SPIKE = 5.0  # times the median of the lines before
BEFORE = 20  # lines that a gradient is compared with
SPIKES = 3  # of them are no chance
ALIKE = 0.1  # distance between channels, which is 1/2 where they are unrelated
RANK = 0.5  # of the greatest effective rank before
BAD = 0.01  # share of the samples
PASSES = 20.0  # over the data

Severity = Literal["fault", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a rule says of a run."""

    severity: Severity
    """A fault ended or spoiled the run, a warning is worth a look, a note is good to know."""
    sentence: str
    """What was found."""
    help: str
    """What would help; empty where nothing has to be done."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule, as the report lists it."""

    name: str
    """What it is called."""
    text: str
    """When it speaks."""
    look: Callable[[RunRecord], Finding | None]
    """Looks at a run; None if there is nothing to say."""


def not_finite(run: RunRecord) -> Finding | None:
    """Find a loss or gradient that was not finite, which the run has listed in a file."""
    if not run.not_finite:
        return None
    last = run.not_finite[-1]
    passed = int(step_in(last)) <= run.step
    after = "; the run was started again and has passed it" if passed else ", where the run ended"
    return Finding(
        severity="warning" if passed else "fault",
        sentence=f"The loss was not finite, as {last.name} tells{after}.",
        help="Look at the samples that the file lists; else a lower optim.base_lr, a longer"
        " optim.warmup_epochs, optim.clip_grad 1 or precision fp32.",
    )


def not_at_its_end(run: RunRecord) -> Finding | None:
    """Find a run that still trains, or stopped before its last step."""
    total = run.total
    where = f"step {run.step:,}" + (f" of {total:,}" if total else "")
    if run.writer is not None:
        return Finding(
            severity="note",
            sentence=f"It still trains: {where}, in process {run.writer}.",
            help="Make the report again later.",
        )
    if not run.metrics:
        return Finding(
            severity="fault",
            sentence="It has logged no step.",
            help="Start its command again, and read what it says.",
        )
    if total is None or run.step >= total:
        return None
    return Finding(
        severity="warning",
        sentence=f"It stopped at {where}.",
        help="The same command goes on from its last checkpoint.",
    )


def loss_flat(run: RunRecord) -> Finding | None:
    """Find a loss that has not fallen."""
    losses = values(run, "loss")
    if len(losses) < FEWEST:
        return None
    before, after = fmean(losses[: len(losses) // 10]), fmean(losses[-len(losses) // 4 :])
    if after < (1 - FALL) * before:
        return None
    return Finding(
        severity="warning",
        sentence=f"The loss is flat: {before:.3f} at first, {after:.3f} at last.",
        help="A higher optim.base_lr, or more steps; look at the reconstructions, and whether"
        " data.mean and data.std are those of the images.",
    )


def loss_rises(run: RunRecord) -> Finding | None:
    """Find a loss that rose again after it had fallen."""
    losses = values(run, "loss")
    if len(losses) < FEWEST:
        return None
    size = len(losses) // 10
    parts = [fmean(losses[i : i + size]) for i in range(0, len(losses) - size + 1, size)]
    best, last = min(parts), fmean(losses[-size:])
    if last <= (1 + RISE) * best:
        return None
    return Finding(
        severity="warning",
        sentence=f"The loss rises: it was {best:.3f}, and is {last:.3f} at last.",
        help="A lower optim.base_lr, a longer optim.warmup_epochs or optim.clip_grad 1.",
    )


def data_bound(run: RunRecord) -> Finding | None:
    """Find a run that waits for its images."""
    waits = values(run, "data_wait")
    wait = median(waits[len(waits) // 2 :]) if len(waits) > 1 else 0.0
    if wait < WAIT:
        return None
    return Finding(
        severity="warning",
        sentence=f"It is data-bound: {wait:.0%} of the time goes into waiting for images.",
        help="More data.workers, smaller images (fcmae shards make --max-side), or shards on a"
        " nearer disk (data.source.cache).",
    )


def gradient_spikes(run: RunRecord) -> Finding | None:
    """Find gradients far above those before them."""
    points = run.series("grad_norm")
    norms = [norm for _, norm in points]
    spikes = [
        points[i][0]
        for i in range(BEFORE, len(norms))
        if norms[i] > SPIKE * median(norms[i - BEFORE : i])
    ]
    if len(spikes) < SPIKES:
        return None
    return Finding(
        severity="warning",
        sentence=f"The gradient spikes {len(spikes)} times, first at step {spikes[0]:,}.",
        help="optim.clip_grad 1, a longer optim.warmup_epochs or a lower optim.base_lr.",
    )


def features_collapse(run: RunRecord) -> Finding | None:
    """Find blocks whose channels have become alike."""
    measured = [line["collapse"] for line in run.metrics if is_list(line.get("collapse"))]
    alike = [] if not measured else [i for i, d in enumerate(measured[-1]) if d < ALIKE]
    if not alike:
        return None
    blocks = ", ".join(str(i + 1) for i in alike)
    return Finding(
        severity="warning",
        sentence=f"Features collapse: the channels of block {blocks} are alike, with a mean"
        f" distance down to {min(measured[-1]):.3f}.",
        help="A V2 model, whose GRN keeps channels apart (model.name convnextv2_...), or a lower"
        " optim.base_lr.",
    )


def rank_falls(run: RunRecord) -> Finding | None:
    """Find features that have come to lie in few dimensions."""
    ranks = values(run, "rankme")
    if len(ranks) < 2 or ranks[-1] >= RANK * max(ranks):
        return None
    return Finding(
        severity="warning",
        sentence=f"The effective rank of the features fell from {max(ranks):.1f} to"
        f" {ranks[-1]:.1f}.",
        help="An earlier checkpoint may have better features: compare them by k-NN"
        " (watch.knn_train); a lower optim.base_lr.",
    )


def bad_samples(run: RunRecord) -> Finding | None:
    """Find samples that could not be read."""
    bad = sum(run.bad_counts.values())
    if not bad:
        return None
    share = f" of {run.samples:,}" if run.samples else ""
    return Finding(
        severity="warning" if run.samples and bad >= BAD * run.samples else "note",
        sentence=f"{bad:,}{share} samples could not be read; they are passed over, and the"
        " settings name them.",
        help="Repair or leave out these samples; fcmae shards verify reads all of them.",
    )


def too_short(run: RunRecord) -> Finding | None:
    """Find a run of few passes over its data."""
    seen = values(run, "samples_seen")
    passes = seen[-1] / run.samples if seen and run.samples else PASSES
    if passes >= PASSES:
        return None
    return Finding(
        severity="note" if passes >= 1 else "warning",
        sentence=f"It is short: {passes:.2g} passes over {run.samples:,} images.",
        help="Features gain from hundreds of passes: a higher optim.epochs or optim.steps.",
    )


def unread(run: RunRecord) -> Finding | None:
    """Find files of the run that the report does without."""
    if not run.problems:
        return None
    return Finding(
        severity="note",
        sentence=f"Files of the run are missing or damaged: {' '.join(run.problems)}",
        help="The report shows what the others hold.",
    )


def values(run: RunRecord, key: str) -> Sequence[float]:
    """The finite numbers that the lines of metrics have of this name."""
    return [value for _, value in run.series(key)]


def is_list(value: object) -> bool:
    """Whether a value is a list of numbers, and not an empty one."""
    return (
        isinstance(value, list) and bool(value) and all(isinstance(v, int | float) for v in value)
    )


RULES = (
    Rule(
        name="loss not finite",
        text="The run has written a file not_finite_*.json.",
        look=not_finite,
    ),
    Rule(
        name="not at its end",
        text="The last logged step is before the last one of the config, or a process still holds"
        " run.lock.",
        look=not_at_its_end,
    ),
    Rule(
        name="loss flat",
        text=f"The mean loss of the last quarter of the lines is not {FALL:.0%} below that of the"
        f" first tenth, of {FEWEST} lines and more.",
        look=loss_flat,
    ),
    Rule(
        name="loss rises",
        text=f"The mean loss of the last tenth of the lines is {RISE:.0%} above that of the best"
        f" tenth, of {FEWEST} lines and more.",
        look=loss_rises,
    ),
    Rule(
        name="data-bound",
        text=f"The median share of waiting for data is {WAIT:.0%} and more in the second half.",
        look=data_bound,
    ),
    Rule(
        name="gradient spikes",
        text=f"The norm is {SPIKE:g} times the median of the {BEFORE} lines before, in {SPIKES}"
        " lines and more.",
        look=gradient_spikes,
    ),
    Rule(
        name="features collapse",
        text=f"The feature distance of a block is below {ALIKE}, where unrelated channels have 0.5"
        " (ConvNeXt V2, figure 3).",
        look=features_collapse,
    ),
    Rule(
        name="rank falls",
        text=f"The last effective rank (RankMe) is below {RANK:g} of the greatest one.",
        look=rank_falls,
    ),
    Rule(
        name="bad samples",
        text=f"Samples could not be read; from {BAD:.0%} of all on it is a warning.",
        look=bad_samples,
    ),
    Rule(
        name="short",
        text=f"The run has had fewer than {PASSES:g} passes over its data; with less than one it is"
        " a warning.",
        look=too_short,
    ),
    Rule(
        name="files",
        text="A file of the run is missing, or cannot be read.",
        look=unread,
    ),
)
