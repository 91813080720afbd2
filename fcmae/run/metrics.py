"""The metrics of a run: the lines of metrics.jsonl, for trackers and for a dry run's summary."""

import json
import resource
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import torch

from fcmae.run.checkpoint import latest
from fcmae.run.files import write_text

METRICS = "metrics.jsonl"


def add_metrics(run: Path, line: Mapping[str, Any]) -> None:
    """Append one line to the run's metrics.jsonl."""
    with (run / METRICS).open("a") as file:
        print(json.dumps(line), file=file)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read all lines of the run's metrics.jsonl, one object for each logged step."""
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]


def count_metrics(run: Path) -> int:
    """Count the complete lines of metrics.jsonl, also while a run writes them; 0 without a file."""
    file = run / METRICS
    return file.read_bytes().count(b"\n") if file.exists() else 0


def drop_metrics_after(run: Path, step: int) -> None:
    """Remove lines of steps after `step`, which will run again, and one that a kill cut short."""
    metrics = run / METRICS
    if metrics.exists():
        lines = metrics.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_text(metrics, "".join(kept))


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


def dry_run_summary(run: Path, steps: int, batch_size: int) -> str:
    """Describe what the steps of a dry run took, and what the whole run would take.

    Args:
        run: the directory with the metrics and the checkpoint of the dry run.
        steps: number of steps of the whole run.
        batch_size: images in a step, over all processes.
    """
    lines = read_metrics(run)
    settled = lines[len(lines) // 4 :]  # the first steps compile and fill queues
    speed, wait = (median(line[key] for line in settled) for key in ("images_per_s", "data_wait"))
    newest = latest(run)
    assert newest is not None
    size = sum(file.stat().st_size for file in newest.iterdir())
    return (
        f"{len(lines)} steps: {speed:.0f} images/s, {1000 * batch_size / speed:.0f} ms a step,"
        f" data wait {wait:.0%}; peak memory {lines[-1]['memory_gb']:.2f} GB a process; a"
        f" checkpoint has {size / 1e6:.0f} MB\n"
        f"all {steps} steps would take {timedelta(seconds=round(steps * batch_size / speed))}"
    )
