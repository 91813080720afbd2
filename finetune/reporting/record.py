"""What a report knows of a run: all that is read of its directory, in whatever state that is.

A file that is missing or damaged, or half written by a run that still trains, costs what it would
have shown, and a sentence on the page.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from data.bad_samples import BadSample
from fcmae.run import checkpoint
from fcmae.run.directory import ENVIRONMENT
from fcmae.run.fields import flatten
from fcmae.run.json_files import field_of, read_json
from fcmae.run.lock import writer_of
from fcmae.run.metrics import METRICS, line_in
from fcmae.run.terminal import line_of, visible
from fcmae.run.training_data import DATA, Record, read_data
from fcmae.run.waiting import counted
from fcmae.run.yaml_files import read_yaml
from finetune.reporting.found import Result, results_of
from finetune.reporting.watched import Watched, read_watched

T = TypeVar("T")
NOT_FINITE = "not_finite_*.json"
Named = tuple[tuple[str, int, str, str], ...]  # bad samples: shard, number, key, reason


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run, as its directory tells of it."""

    path: Path
    """Its directory."""
    name: str
    """What it is called on the page; no two runs of a report have the same."""
    config: Mapping[str, Any]
    """The config, nested, as config.yaml has it; empty if it cannot be read."""
    metrics: Sequence[Mapping[str, Any]]
    """The whole lines of metrics.jsonl, in the order of their steps. Values are not checked: take
    numbers by `series`."""
    starts: Sequence[Mapping[str, Any]]
    """The environment of each start."""
    shards: Sequence[Record]
    """The name, the number of samples and the SHA-256 of each training shard."""
    bad_samples: Sequence[BadSample]
    """The first samples that could not be read, with their reasons, as a checkpoint has them."""
    bad_counts: Mapping[str, int]
    """The number of samples that could not be read, by shard."""
    results: Sequence[Result]
    """The results of probes, k-NN, fine-tuning and others, found in the directory or beside it."""
    watched: Watched | None
    """The images that training keeps for the report, and what became of them; None without any."""
    writer: str | None
    """Who trains it now, as `PID on HOST since TIME`; None if nobody does."""
    not_finite: Sequence[Path]
    """Files that list the samples of a step whose loss was not finite."""
    problems: Sequence[str]
    """Sentences on what could not be read."""

    def series(self, key: str) -> list[tuple[int, float]]:
        """Step and value of each line of metrics that has a finite number of this name."""
        return [
            (line["step"], float(line[key])) for line in self.metrics if is_number(line.get(key))
        ]

    def value(self, key: str) -> Any:
        """A value of the config by its dotted name, as `optim.steps`; None if it has none."""
        return flatten(self.config).get(key)

    def number(self, key: str) -> float | None:
        """A number of the config by its dotted name; None if it has none there."""
        value = self.value(key)
        return float(value) if is_number(value) else None

    @property
    def step(self) -> int:
        """The last step that was logged; 0 before the first."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def samples(self) -> int:
        """The number of training samples; 0 if it is not known."""
        return sum(samples for _, samples, _ in self.shards)

    @property
    def total(self) -> int | None:
        """The number of steps that the run is to have; None if it is not known."""
        steps = self.number("optim.steps")
        epochs, batch = self.number("optim.epochs"), self.number("optim.batch_size")
        if steps is None and epochs and batch and self.samples:
            steps = epochs * self.samples / batch
        return None if steps is None else int(steps)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number, and no truth value."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Read runs, each once, in their order.

    Args:
        paths: directories of runs, or of folders that have runs right in them.

    Raises:
        ValueError: a path is no directory, or one without a run.
    """
    if not paths:
        raise ValueError("name the directory of a run, such as runs/quickstart")
    found = {path.resolve(): path for given in paths for path in runs_in(given)}
    named = zip(found.values(), short(found), strict=True)
    turns = counted(named, "reading runs", len(found), "runs")
    return [read_run(path, name) for path, name in turns]


def short(paths: Iterable[Path]) -> list[str]:
    """Name distinct paths by as many of their last parts as tell them apart."""
    whole = [path.parts for path in paths]
    counts = range(1, max(map(len, whole)) + 1)
    names = (["/".join(parts[-count:]) for parts in whole] for count in counts)
    return next(list(map(visible, told)) for told in names if len(set(told)) == len(told))


def runs_in(path: Path) -> list[Path]:
    """The run that is in a directory, or the runs that are right in it.

    Raises:
        ValueError: it is no directory, or has none.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is no directory: name that of a run, such as runs/quickstart")
    if is_run(path):
        return [path]
    if below := sorted(filter(is_run, path.iterdir())):
        return below
    raise ValueError(
        f"{path} holds no run: it has neither {checkpoint.CONFIG} nor {METRICS}, and no directory"
        " in it has them"
    )


def is_run(path: Path) -> bool:
    """Whether a directory is that of a run."""
    return any((path / name).is_file() for name in (checkpoint.CONFIG, METRICS))


def read_run(path: Path, name: str) -> RunRecord:
    """Read all that a report shows of a run.

    Args:
        path: the directory of the run.
        name: what the run is called on the page.
    """
    problems = list[str]()

    def tried(read: Callable[[Path], T], file: Path, otherwise: T) -> T:
        try:
            return read(file)
        except FileNotFoundError:
            problems.append(f"{file.name} is missing.")
        except (OSError, ValueError) as error:
            problems.append(f"{file.name} cannot be read: {line_of(error)}.")
        return otherwise

    state = newest_state(path)
    bad = tried(read_bad, state, ((), {})) if state else ((), {})
    return RunRecord(
        path=path,
        name=name,
        config=tried(read_yaml, path / checkpoint.CONFIG, {}),
        metrics=tried(lambda file: read_lines(file, problems), path / METRICS, []),
        starts=tried(read_starts, path / ENVIRONMENT, []),
        shards=tried(read_data, path / DATA, []),
        bad_samples=bad[0],
        bad_counts=bad[1],
        results=results_of(path, problems),
        watched=read_watched(path, problems),
        writer=writer_of(path),
        not_finite=[file for file in sorted(path.glob(NOT_FINITE)) if step_in(file).isdecimal()],
        problems=problems,
    )


def step_in(file: Path) -> str:
    """The part of a file's name that tells a step, as in not_finite_0000012.json."""
    return file.stem.rpartition("_")[2]


def read_lines(file: Path, problems: list[str]) -> list[dict[str, Any]]:
    """Read the whole lines of metrics, those that are damaged or go back left out.

    Args:
        file: metrics.jsonl.
        problems: gets a sentence on the lines that were left out.

    Raises:
        OSError: the file cannot be read.
    """
    lines = list[dict[str, Any]]()
    damaged = list[int]()
    for number, text in enumerate(file.read_bytes().split(b"\n")[:-1], 1):
        line = line_in(text)
        if line is None or (lines and line["step"] <= lines[-1]["step"]):
            damaged.append(number)
        else:
            lines.append(line)
    if damaged:
        problems.append(
            f"{file.name} is damaged: {len(damaged)} lines, the first of them line {damaged[0]},"
            " are none of later steps and are left out."
        )
    return lines


def read_starts(file: Path) -> list[Mapping[str, Any]]:
    """Read the environment of each start.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    return [start for start in read_json(file, list) if isinstance(start, dict)]


def newest_state(run: Path) -> Path | None:
    """Find the state of the newest checkpoint, which counts the bad samples."""
    newest = checkpoint.latest(run)
    return None if newest is None else newest / checkpoint.STATE


def read_bad(file: Path) -> tuple[tuple[BadSample, ...], dict[str, int]]:
    """Read the samples that could not be read, and how many there are by shard.

    Raises:
        ValueError: the state is damaged.
        OSError: it cannot be read.
    """
    bad = checkpoint.read_state(file.parent).bad
    if not bad:
        return (), {}
    named: Named = field_of(bad, "named", Named)
    numbers = field_of(bad, "numbers", dict[str, tuple[int, ...]])
    return tuple(BadSample(*sample) for sample in named), {k: len(v) for k, v in numbers.items()}
