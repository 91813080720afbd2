"""The settings of runs: configs and how they differ, environments, data, samples not read."""

from collections.abc import Mapping, Sequence
from typing import Any

from fcmae.run.fields import flatten
from finetune.reporting.record import RunRecord
from finetune.reporting.section import Section, render

LISTED = 200  # shards, starts and bad samples of a run that are listed
OWN = ("run.dir",)  # settings that differ by nature
START = (
    "start",
    "from step",
    "code",
    "Python",
    "packages",
    "device",
    "threads",
    "command",
    "changed",
)


def section(runs: Sequence[RunRecord]) -> Section:
    """Show what runs were made with, and what of it differs."""
    configs = {run.name: {k: told(v) for k, v in flatten(run.config).items()} for run in runs}
    bad = {run.name: bad_of(run) for run in runs}
    body = render(
        "settings.html",
        runs=runs,
        listed=LISTED,
        configs={name: list(config.items()) for name, config in configs.items()},
        differing=differing(configs),
        heads=START,
        starts={run.name: starts_of(run) for run in runs},
        bad=bad,
    )
    data = {
        "configs": {run.name: run.config for run in runs},
        "starts": {run.name: run.starts[-LISTED:] for run in runs},
        "shards": {run.name: run.shards[:LISTED] for run in runs},
        "bad": bad,
    }
    return Section(name="settings", title="Settings", body=body, data=data)


def differing(configs: Mapping[str, Mapping[str, str]]) -> list[list[str]]:
    """The settings in which runs differ: a name, and the value of each run, or a dash for none."""
    keys = dict.fromkeys(key for config in configs.values() for key in config if key not in OWN)
    rows = [[key, *(config.get(key, "-") for config in configs.values())] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def told(value: object) -> str:
    """A value of a config as people write it."""
    if isinstance(value, list):
        return ", ".join(map(told, value)) if value else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def starts_of(run: RunRecord) -> list[list[str]]:
    """The last starts of a run, as rows of a table."""
    numbered = list(enumerate(run.starts, 1))
    return [start_of(number, start) for number, start in numbered[-LISTED:]]


def start_of(number: int, start: Mapping[str, Any]) -> list[str]:
    """A start of a run in the table of starts: a text for each of START."""
    commit, dirty = start.get("commit"), start.get("dirty")
    packages, command = start.get("packages"), start.get("command")
    changed = start.get("changed")
    return [
        str(number),
        told(start.get("step", "")),
        f"{str(commit)[:10]}{' with changes' if dirty else ''}" if commit else "",
        told(start.get("python", "")),
        ", ".join(f"{k} {v}" for k, v in packages.items()) if isinstance(packages, dict) else "",
        f"{told(start.get('world_size', ''))} x {told(start.get('device', ''))}",
        told(start.get("threads", "")),
        " ".join(map(str, command)) if isinstance(command, list) else "",
        "; ".join(map(str, changed)) if isinstance(changed, list) else "",
    ]


def bad_of(run: RunRecord) -> list[list[str]]:
    """The samples that could not be read, by name: shard, key and reason."""
    return [
        [bad.shard, bad.key if bad.why else f"number {bad.number}", bad.why or "met before"]
        for bad in run.bad_samples[:LISTED]
    ]
