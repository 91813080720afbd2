"""Whether runs are healthy: a verdict on each, what the rules found, and the runs in a table."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Literal

from finetune.reporting.finding import Finding, values
from finetune.reporting.record import RunRecord
from finetune.reporting.rules import RULES
from finetune.reporting.section import Section, render

WORDS = {"fault": "Fault", "warning": "Warning", "note": "Note", "good": "Healthy"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the rules together say of a run."""

    run: str
    """The name of the run."""
    state: Literal["fault", "warning", "good"]
    """The gravest of what was found; notes leave a run healthy."""
    sentence: str
    """The verdict, without a full stop: `quickstart is healthy: ...`."""
    found: Sequence[tuple[str, Finding]]
    """What was found, by the names of rules, the gravest first."""


def section(runs: Sequence[RunRecord]) -> Section:
    """Judge the runs, and put them side by side."""
    verdicts = [verdict_on(run) for run in runs]
    body = render(
        "health.html",
        verdicts=verdicts,
        words=WORDS,
        rules=[[rule.name, rule.text] for rule in RULES],
        heads=HEADS,
        rows=[row_of(run) for run in runs],
    )
    data = {"verdicts": [asdict(verdict) for verdict in verdicts]}
    return Section(name="health", title="Is it healthy?", body=body, data=data)


def verdict_on(run: RunRecord) -> Verdict:
    """Ask all rules about a run."""
    looked = [(rule.name, rule.look(run)) for rule in RULES]
    order = list(WORDS)
    found = sorted(
        ((name, finding) for name, finding in looked if finding is not None),
        key=lambda named: order.index(named[1].severity),
    )
    grave = [finding for _, finding in found if finding.severity != "note"]
    if not grave:
        sentence, state = f"{run.name} is healthy: {course_of(run)}", "good"
    else:
        state = "fault" if grave[0].severity == "fault" else "warning"
        word = "has failed" if state == "fault" else "needs a look"
        first = grave[0].sentence.rstrip(".")
        more = f", and {len(grave) - 1} more" if len(grave) > 1 else ""
        sentence = f"{run.name} {word}: {first[0].lower()}{first[1:]}{more}"
    return Verdict(run=run.name, state=state, sentence=sentence, found=found)


def course_of(run: RunRecord) -> str:
    """Say in a few words how the loss went."""
    losses = values(run, "loss")
    if not losses:
        return "it has not logged a loss yet"
    size = max(1, len(losses) // 10)
    first, last = fmean(losses[:size]), fmean(losses[-size:])
    way = "fell" if last < first else "went"
    return f"its loss {way} from {first:.3f} to {last:.3f} in {run.step:,} steps"


HEADS = ("run", "model", "images", "steps", "passes", "loss", "images/s", "hours")


def row_of(run: RunRecord) -> list[str]:
    """A run in the table of runs: a text for each of HEADS."""
    seen, speeds, losses = (values(run, k) for k in ("samples_seen", "images_per_s", "loss"))
    size = run.value("model.image_size")
    total = run.total
    return [
        run.name,
        " at ".join(str(part) for part in (run.value("model.name"), f"{size} px") if part),
        f"{run.samples:,}" if run.samples else "",
        f"{run.step:,}" + (f" of {total:,}" if total and total != run.step else ""),
        f"{seen[-1] / run.samples:.1f}" if seen and run.samples else "",
        f"{fmean(losses[-max(1, len(losses) // 10) :]):.4f}" if losses else "",
        f"{median(speeds):.0f}" if speeds else "",
        f"{hours_of(run):.2f}",
    ]


def hours_of(run: RunRecord) -> float:
    """The hours of training, without those of starts and of what is measured between lines."""
    hours, before = 0.0, 0.0
    speeds = dict(run.series("images_per_s"))
    for step, seen in run.series("samples_seen"):
        if speeds.get(step):
            hours += (seen - before) / speeds[step] / 3600
        before = seen
    return hours
