"""The results beside runs as rows: each is told by what is in it, as a probe or fine-tuning.

Fine-tunings that differ in their seed alone are one entry with several values.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fcmae.run.fields import flatten
from fcmae.run.json_files import as_object, field_of
from fcmae.run.secrets import public
from fcmae.run.terminal import line_of, visible
from fcmae.run.yaml_files import read_yaml
from finetune.reporting.found import Result
from finetune.reporting.measured import Classes, Spread, classes_of, measures_of, number_of
from finetune.reporting.record import RunRecord

BASELINES = {"raw_pixels": "raw pixels", "hog": "HOG", "majority": "commonest class"}
METHODS = ("linear probe", "k-NN", "fine-tuning", "segmentation", "baseline")  # in this order
SIDES = ("test_samples", "held_out_samples", "test_images")  # what is reported on
NO_RESULT = ("seed", "out", "run.", "threads", "random.seed")  # of a config: other values, same row


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A result of one method on one start."""

    run: str
    """The run that it is found beside."""
    name: str
    """The name of its file; of several, those of all."""
    method: str
    """What has been done with the encoder."""
    start: str
    """The weights that it starts from."""
    measures: Mapping[str, Spread]
    """What is measured, by name, on the samples that are reported on."""
    held_out: Spread | None = None
    """The accuracy on held-out training samples, which the choice is made by."""
    chosen: str = ""
    """What has been chosen by it."""
    learned: int | None = None
    """The number of samples that it has learned from."""
    reported: int | None = None
    """The number of samples that it reports on."""
    classes: Classes | None = None
    """What is measured of each class."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A value of a learning curve."""

    run: str
    """The run that it is found beside."""
    name: str
    """The name of the file of its curve."""
    metric: str
    """What is measured."""
    curve: str
    """The start and the method."""
    label: str
    """How many labels, in words."""
    samples: int
    """How many labels."""
    value: Spread
    """The measure."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """All that is found beside runs."""

    entries: Sequence[Entry]
    """The results of methods, in the order of the runs and of their names."""
    points: Sequence[Point]
    """The points of learning curves."""
    problems: Sequence[str]
    """Sentences on files that are damaged, or no results."""


def found_beside(runs: Sequence[RunRecord]) -> Found:
    """Read what lies beside runs; what lies beside two of them is the first one's."""
    entries = list[tuple[str, Entry]]()  # those of the same key differ in their seed alone
    points = list[Point]()
    problems = list[str]()
    seen = set[Path]()
    for run in runs:
        strange = list[str]()
        for result in run.results:
            if (real := result.path.resolve()) in seen:
                continue
            seen.add(real)
            try:
                kind = kind_of(result.content)
                if kind == "few labels":
                    points += points_of(run.name, result)
                elif kind == "baselines":
                    entries += [(str(real), entry) for entry in baselines_of(run.name, result)]
                elif kind:
                    entries.append((key_of(result), entry_of(run.name, result, kind)))
                elif "measured" not in result.content:  # else a part of few labels
                    strange.append(result.name)
            except ValueError as error:
                problems.append(
                    f"{run.name}: the result {result.name} is damaged: {line_of(error)}."
                )
        if strange:
            problems.append(f"{run.name}: no result of a program is in {', '.join(strange)}.")
    found = sorted(merged(entries), key=lambda entry: METHODS.index(entry.method.partition(":")[0]))
    return Found(entries=found, points=points, problems=problems)


def kind_of(content: Mapping[str, Any]) -> str:
    """What a result is of, by what is in it; empty if it is no result of ours."""
    if "test_accuracy" in content:
        chosen = content.get("chosen")
        return "k-NN" if "k" in str(chosen) else "linear probe"
    if {"results", "metric", "samples"} <= content.keys():
        return "few labels"
    if "weights" not in content:
        return "baselines" if BASELINES.keys() & content.keys() else ""
    if "miou" in content:
        return "segmentation"
    return "fine-tuning" if {"accuracy", "map", "mae"} & content.keys() else ""


def entry_of(run: str, result: Result, kind: str) -> Entry:
    """Read the result of a probe, k-NN, fine-tuning or segmentation.

    Raises:
        ValueError: it is damaged.
    """
    content = result.content
    measures = measures_of(content)
    if "test_accuracy" in content:
        measures = {"accuracy": Spread.of_json(content["test_accuracy"])}
    held_out = content.get("held_out_accuracy")
    return Entry(
        run=run,
        name=result.name,
        method=kind,
        start=start_of(content),
        measures=measures,
        held_out=None if held_out is None else Spread.of_json(held_out),
        chosen=choices_of(content),
        learned=count_of(content, "train_samples"),
        reported=next((count_of(content, side) for side in SIDES if side in content), None),
        classes=classes_of(content),
    )


def baselines_of(run: str, result: Result) -> Iterator[Entry]:
    """Read the result of scripts/baselines.py, an entry for each baseline.

    Raises:
        ValueError: it is damaged.
    """
    for key, method in BASELINES.items():
        if key in result.content:
            yield Entry(
                run=run,
                name=result.name,
                method=f"baseline: {method}",
                start="no encoder",
                measures={"accuracy": Spread.over([number_of(result.content[key])])},
                learned=count_of(result.content, "train_images"),
                reported=count_of(result.content, "test_images"),
            )


def points_of(run: str, result: Result) -> list[Point]:
    """Read the table of learning from few labels.

    Raises:
        ValueError: it is damaged.
    """
    content = result.content
    samples = field_of(content, "samples", dict[str, int])
    return [
        Point(
            run=run,
            name=result.name,
            metric=visible(field_of(content, "metric", str)),
            curve=visible(curve),
            label=visible(label),
            samples=field_of(samples, label, int),
            value=Spread.of_json(value),
        )
        for label, row in as_object(content["results"]).items()
        for curve, value in as_object(row).items()
    ]


def start_of(content: Mapping[str, Any]) -> str:
    """The weights of a result in a few words: their file's name, and the step that they are of."""
    weights, step = str(content.get("weights")), content.get("step")
    if weights == "none":
        return visible(f"random {content.get('model', '')}")
    name = visible(public(weights).rstrip("/").rpartition("/")[2])
    return f"{name}, step {step}" if isinstance(step, int) else name


def choices_of(content: Mapping[str, Any]) -> str:
    """What a probe has chosen, in each way once: `k 5, k 10`."""
    chosen = content.get("chosen")
    if not isinstance(chosen, list):
        return ""
    told = (
        " ".join(f"{key.replace('_', ' ')} {value}" for key, value in choice.items())
        for choice in chosen
        if isinstance(choice, dict)
    )
    return ", ".join(dict.fromkeys(told))


def count_of(content: Mapping[str, Any], name: str) -> int | None:
    """A number of samples; None if it is not told.

    Raises:
        ValueError: it is no whole number.
    """
    return field_of(content, name, int | None)


def key_of(result: Result) -> str:
    """What two runs of a program share that differ in their seed alone: all else of their config.

    A result beside which no config lies is alone.
    """
    file = result.path.with_suffix("") / "config.yaml"
    with suppress(OSError, ValueError):
        config = flatten(read_yaml(file))
        return repr([item for item in config.items() if not item[0].startswith(NO_RESULT)])
    return str(result.path.resolve())


def merged(entries: Sequence[tuple[str, Entry]]) -> Iterator[Entry]:
    """Put entries of one key together, at the place of the first."""
    alike = dict[tuple[object, ...], list[Entry]]()
    for key, entry in entries:
        names = entry.classes and tuple(entry.classes.spreads)
        same = (key, entry.run, entry.method, entry.start, tuple(entry.measures), names)
        alike.setdefault(same, []).append(entry)
    for group in alike.values():
        yield over_seeds(group) if len(group) > 1 else group[0]


def over_seeds(group: Sequence[Entry]) -> Entry:
    """The entry that entries of several seeds are together; they measure the same."""

    def spread(spreads: Sequence[Spread]) -> Spread:
        return Spread.over([value for one in spreads for value in one.values])

    parts = [entry.classes for entry in group if entry.classes]
    classes = None
    if parts:
        classes = replace(
            parts[0],
            spreads={
                name: spread([part.spreads[name] for part in parts]) for name in parts[0].spreads
            },
            matrices=[matrix for part in parts for matrix in part.matrices],
        )
    return replace(
        group[0],
        name=", ".join(entry.name for entry in group),
        measures={
            name: spread([entry.measures[name] for entry in group]) for name in group[0].measures
        },
        classes=classes,
    )
