"""The metrics of a run: the lines of metrics.jsonl, also as scalars for trackers."""

import json
import resource
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from fcmae.run.checkpoint import WAITING
from fcmae.run.files import write_text
from fcmae.run.json_files import field_of, parse_json
from fcmae.run.outages import Outage
from fcmae.run.records import set_aside
from fcmae.run.terminal import say

METRICS = "metrics.jsonl"
MOST_WAITING = 100_000  # lines, some 50 MB; the oldest go where more cannot be written


class MetricsFile:
    """metrics.jsonl as a run extends it; lines that cannot be written wait for the next one.

    They keep their order, and none is written twice. Checkpoints carry those that wait, so that a
    run that is killed meanwhile does not lose them.

    Args:
        run: the directory of the run.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / METRICS
        self.lines = deque[str](maxlen=MOST_WAITING)
        self.end: int | None = None  # of the whole lines, in bytes, where others may follow them
        self.outage = Outage(
            "lines wait in memory and in checkpoints, and the next one tries again"
        )

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line of metrics, or let it wait."""
        self.lines.append(f"{json.dumps(line)}\n")
        self.write()

    def write(self) -> None:
        """Append the lines that wait; a failure is told, and none of them is written then."""
        if self.lines:
            with self.outage.spared(f"writing {self.path}"):
                self._append(self.waiting.encode())
                self.lines.clear()

    @property
    def waiting(self) -> str:
        """The lines that could not be written yet."""
        return "".join(self.lines)

    def _append(self, content: bytes) -> None:
        with self.path.open("ab", buffering=0) as file:  # a buffer would try again when closed
            size = file.tell()
            self.end = size if self.end is None else min(self.end, size)
            if self.end < size:  # a part of a line, which could not be cut off when it was written
                file.truncate(self.end)
            try:
                while content:
                    content = content[file.write(content) :]
            except OSError:
                with suppress(OSError):
                    file.truncate(self.end)
                raise
        self.end = None


def restore_metrics(run: Path, checkpoint: Path) -> None:
    """Write the lines that waited when a checkpoint was made, and that the run's file still lacks.

    Args:
        run: the directory of the run.
        checkpoint: the checkpoint that the run goes on from.

    Raises:
        OSError: the file cannot be written.
    """
    carried = checkpoint / WAITING
    if not carried.exists():
        return
    by_step = lines_by_step(run / METRICS)
    for text in carried.read_bytes().split(b"\n")[:-1]:
        if (line := line_in(text)) is not None:
            by_step.setdefault(line["step"], f"{text.decode()}\n")
    write_text(run / METRICS, "".join(by_step[step] for step in sorted(by_step)))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read all complete lines of the run's metrics.jsonl, one object for each logged step.

    Raises:
        ValueError: a line is none of metrics; the message names it.
        OSError: the file cannot be read.
    """
    metrics = run / METRICS
    found = list[dict[str, Any]]()
    for number, text in enumerate(metrics.read_bytes().split(b"\n")[:-1], 1):
        line = line_in(text)
        if line is None:
            raise ValueError(f"{metrics} is damaged: line {number} is none of metrics")
        found.append(line)
    return found


def line_in(text: bytes) -> dict[str, Any] | None:
    """Read a line of metrics; None if it is no object with the number of a step."""
    with suppress(ValueError):
        line = parse_json(text.decode(), "the line", dict)
        field_of(line, "step", int)
        return line
    return None


def count_metrics(run: Path) -> int:
    """Count the complete lines of metrics.jsonl, also while a run writes them; 0 without a file."""
    file = run / METRICS
    return file.read_bytes().count(b"\n") if file.exists() else 0


def drop_metrics_after(run: Path, step: int) -> None:
    """Remove lines of steps after `step`, which will run again, and one that a kill cut short.

    Args:
        run: the directory of the run.
        step: the number of steps that were taken before this start.

    Raises:
        OSError: the file cannot be read or written.
    """
    metrics = run / METRICS
    kept = [text for at, text in lines_by_step(metrics).items() if at <= step]
    if step and not kept:
        say(f"{metrics} has no line of the {step} steps before this start")
    if kept or metrics.exists():
        write_text(metrics, "".join(kept))


def lines_by_step(metrics: Path) -> dict[int, str]:
    """Read the complete lines of metrics, which a run is about to write again, by their steps.

    A file with lines that are none of metrics, or of steps that were there before, is kept under
    another name, which is told.

    Raises:
        OSError: the file cannot be read or renamed.
    """
    texts = metrics.read_bytes().split(b"\n")[:-1] if metrics.exists() else []
    kept = dict[int, str]()
    damaged = list[int]()
    for number, text in enumerate(texts, 1):
        line = line_in(text)
        if line is None or line["step"] <= next(reversed(kept), 0):
            damaged.append(number)
        else:
            kept[line["step"]] = f"{text.decode()}\n"
    if damaged:
        say(
            f"{metrics} is damaged: {len(damaged)} lines, the first of them line {damaged[0]}, are"
            f" none of later steps; it is kept as {set_aside(metrics)}"
        )
    return kept


def as_scalars(line: Mapping[str, Any]) -> dict[str, int | float | None]:
    """Turn a line of metrics into scalars for trackers: entries of lists become `name/key`."""
    flat: dict[str, int | float | None] = {}
    for name, value in line.items():
        if isinstance(value, Mapping | list):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            flat |= {f"{name}/{key}": part for key, part in items}
        else:
            flat[name] = value
    return flat


def peak_memory(device: torch.device) -> float:
    """Measure the most memory that this process has held so far, in units of 10^9 bytes.

    On a GPU it is memory of the device, elsewhere main memory.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
