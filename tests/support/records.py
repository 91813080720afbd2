"""Directories of runs as reports read them, with metrics of any course, and without training."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from data.bad_samples import BadSample, BadSamples
from fcmae.run.checkpoint import TrainState

Columns = dict[str, Callable[[int], Any]]
HEALTHY: Columns = {  # of the line i, counted from 0
    "loss": lambda i: 0.5 + 0.4 / (i + 1),
    "lr": lambda i: 1e-3,
    "grad_norm": lambda i: 1.0 + 0.1 * (i % 3),
    "images_per_s": lambda i: 100.0,
    "data_wait": lambda i: 0.02,
    "memory_gb": lambda i: 1.5,
}


def write_run(
    run: Path,
    lines: int = 40,
    *,
    total: int = 40,
    samples: int = 100,
    config: Mapping[str, Any] | None = None,
    columns: Columns | None = None,
) -> Path:
    """Write a directory of a run of batches of 100 images, with a line of metrics for each step.

    Args:
        run: the directory, which is made.
        lines: of metrics.
        total: steps of the config.
        samples: of the data.
        config: sections that are added to the config.
        columns: values of a line by name, each a function of its number, in place of HEALTHY.
    """
    run.mkdir(parents=True)
    tree = {"optim": {"steps": total, "batch_size": 100}, "model": {"name": "atto"}}
    (run / "config.yaml").write_text(yaml.safe_dump(tree | dict(config or {})))
    (run / "data.json").write_text(json.dumps({"shards": [["a.tar", samples, "0" * 64]]}))
    (run / "environment.json").write_text(json.dumps([{"step": 0, "command": ["pretrain.py"]}]))
    values = HEALTHY | (columns or {})
    told = (
        {"step": i + 1, "samples_seen": 100 * (i + 1)} | {k: f(i) for k, f in values.items()}
        for i in range(lines)
    )
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in told))
    return run


def write_bad_samples(run: Path, *keys: str) -> None:
    """Write the state of a checkpoint that counts samples of these keys as bad."""
    bad = BadSamples(100, 1.0)
    bad.add(BadSample("a.tar", i, key, "no image") for i, key in enumerate(keys))
    state = TrainState(step=40, samples_seen=4000, bad=bad.state())
    folder = run / "step_0000040"
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps(vars(state)))
