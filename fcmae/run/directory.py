"""The run directory: the config of a run, a record of each start, and the check of a restart."""

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fcmae.run import checkpoint
from fcmae.run.config import completed, differences, to_tree, to_yaml
from fcmae.run.files import write_text
from fcmae.run.json_files import read_json
from fcmae.run.metrics import drop_metrics_after
from fcmae.run.records import read_or_set_aside
from fcmae.run.secrets import public
from fcmae.run.terminal import say
from fcmae.run.training_data import DATA, Shard, check_data, read_data, write_data
from fcmae.run.yaml_files import read_yaml

ENVIRONMENT = "environment.json"
LEFT = (  # what a kill leaves of files that a run writes, and nobody else beside it
    *(".config.yaml.*.tmp", ".data.json.*.tmp", ".environment.json.*.tmp"),
    *(".metrics.jsonl.*.tmp", "pictures/.*.tmp", "watched/.*.tmp"),
)
PACKAGES = (
    *("torch", "torchvision", "timm", "accelerate", "webdataset"),
    *("numba", "numpy", "pillow", "simplejpeg"),
)


def compare(
    run: Path,
    config: Any,
    say: Callable[[str], object],
    *,
    free: tuple[str, ...],
    length: tuple[str, ...] = (),
    told: Mapping[str, Any] | None = None,
    shards: Sequence[Shard] = (),
    newest: Path | None = None,
) -> list[str]:
    """Compare the config of a restart with the one that the run was started with.

    Args:
        run: the directory of the run; without a config there is nothing to compare with.
        config: the resolved config of this start.
        say: prints a sentence about each change of the length, and about damaged files.
        free: names of fields, and of sections such as `run.`, that change no number.
        length: names of fields that only say how long the run is.
        told: what fields of the earlier config stand for that are None or auto, by dotted keys.
        shards: the training data; their paths, data.train, may change where their contents are
            known to be the same. None are not compared.
        newest: the checkpoint that the run goes on from, if there is one. Its config is compared,
            which cannot be damaged as that of the directory can.

    Returns:
        What the restart changes of the length, as lines `field: old -> new`.

    Raises:
        ValueError: fields or shards differ that change numbers; the message lists them. The
            written config is no YAML.
    """
    try:
        tree = read_yaml((run if newest is None else newest) / checkpoint.CONFIG)
    except FileNotFoundError:
        return []
    except ValueError as error:
        say(f"{error}; this start is compared with nothing")
        return []
    if shards and check_data(run, shards, say):
        free = (*free, "data.train")
    old = completed(tree, type(config), told)
    new = to_tree(config)
    refused = differences(old, new, ignore=free + length)
    if refused:
        removed = ", or remove this one, which has no checkpoint" if newest is None else ""
        raise ValueError(
            f"{run} holds a run with another config ({'; '.join(refused)});"
            f" take these values back, or choose another --run.dir{removed}"
        )
    changed = differences(old, new, ignore=free)
    for change in changed:
        say(f"{change}: the schedule is that of the new length from here on")
    return changed


def begin(
    run: Path, config: Any, step: int, facts: Mapping[str, Any], shards: Sequence[Shard] = ()
) -> None:
    """Record a start: write config.yaml and data.json, extend environment.json, cut metrics.

    Damaged files of earlier starts are kept under another name, which a line tells.

    Args:
        run: the directory of the run, which is made if it does not exist.
        config: the resolved config.
        step: the number of steps that were taken before this start; later metrics are dropped.
        facts: what else to record of this start, such as the number of processes.
        shards: the training data, for data.json; none are not recorded.

    Raises:
        OSError: the directory is not writable.
    """
    run.mkdir(parents=True, exist_ok=True)
    read_or_set_aside(run / checkpoint.CONFIG, read_yaml)
    write_text(run / checkpoint.CONFIG, to_yaml(config))
    if shards:
        read_or_set_aside(run / DATA, read_data)
        write_data(run, shards)
    earlier = read_or_set_aside(run / ENVIRONMENT, read_starts) or []
    if step and not earlier:
        say(f"{run / ENVIRONMENT} has no record of the {step} steps before this start")
    start = {"step": step, **environment(), **facts}
    before = earlier[-1] if earlier and isinstance(earlier[-1], dict) else {}
    if step and before.get("threads", start["threads"]) != start["threads"]:
        say(
            f"this start has {start['threads']} threads and the one before had"
            f" {before['threads']}: sums round otherwise, and the last bits may differ"
        )
    write_text(run / ENVIRONMENT, json.dumps([*earlier, start], indent=2))
    drop_metrics_after(run, step)


def read_starts(path: Path) -> list[Any]:
    """Read the record of the starts of a run.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    return read_json(path, list)


def environment() -> dict[str, Any]:
    """Collect what a run's numbers may depend on besides its config: code, packages, threads."""

    def git(*command: str) -> str | None:
        if shutil.which("git") is None:
            return None
        done = subprocess.run(
            ["git", "-C", Path(__file__).parent, *command], capture_output=True, text=True
        )
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain")
    return {
        "command": [public(argument) for argument in sys.argv],
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
    }
