"""The rules by which a report calls a run healthy: each finds one thing, and what would help."""

from statistics import fmean, median

from finetune.reporting.feature_rules import FEATURE_RULES
from finetune.reporting.finding import Finding, Rule, values
from finetune.reporting.record import RunRecord, step_in

FEWEST = 20  # lines of metrics, below which nothing is said of a course
FALL = 0.02  # share by which a loss has to fall
RISE = 0.1  # share by which it may rise above the best that it was
WAIT = 0.2  # share of the time
SPIKE = 5.0  # times the median of the lines before
BEFORE = 20  # lines that a gradient is compared with
SPIKES = 3  # of them are no chance
BAD = 0.01  # share of the samples
PASSES = 20.0  # over the data


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
    *FEATURE_RULES,
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
