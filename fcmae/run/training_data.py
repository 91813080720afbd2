"""The training data of a run: a record of its shards, and the check that a restart has the same.

The order of samples is a function of the sizes and the order of the shards, and a checkpoint holds
no more than how many samples were seen. So a run can only go on as it began on the same data.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from fcmae.run.files import text_sha256, write_json

DATA = "data.json"
LISTED = 5  # how many shards of a kind an error names


@runtime_checkable
class Shard(Protocol):
    """What is recorded of a shard."""

    @property
    def name(self) -> str:
        """The file name."""
        ...

    @property
    def samples(self) -> int:
        """The number of samples."""
        ...

    @property
    def sha256(self) -> str:
        """The hash of the content."""
        ...


Record = tuple[str, int, str]  # name, samples and SHA-256 of a shard


def records(shards: Sequence[Shard]) -> list[Record]:
    """Take what is recorded of each shard, in their order."""
    return [(shard.name, shard.samples, shard.sha256) for shard in shards]


def digest(shards: Sequence[Shard]) -> str:
    """Compute one SHA-256 for the contents of shards in their order, wherever they lie."""
    return text_sha256(" ".join(shard.sha256 for shard in shards))


def write_data(run: Path, shards: Sequence[Shard]) -> None:
    """Record the shards of a run in its directory.

    Raises:
        OSError: the directory is not writable.
    """
    write_json(run / DATA, {"shards": records(shards)}, compact=True)


def check_data(run: Path, shards: Sequence[Shard]) -> bool:
    """Compare the shards of a restart with those that the run has trained on.

    Shards may have moved, or have other names, if their contents are the same in the same order.

    Args:
        run: the directory of the run.
        shards: those of this start.

    Returns:
        Whether the run has a record; those of earlier versions have none.

    Raises:
        ValueError: shards differ; the message names them.
    """
    written = run / DATA
    if not written.exists():
        return False
    old: list[Record] = [(*record,) for record in json.loads(written.read_text())["shards"]]
    new = records(shards)
    if [sha256 for *_, sha256 in old] != [sha256 for *_, sha256 in new]:
        raise ValueError(
            f"{run} has trained on other data: {changes(old, new)}; restore these shards, or start"
            f" another --run.dir (in fine-tuning, --out). Pretraining goes on from the weights of"
            f" this run with --init.weights {run} --init.decoder True"
        )
    return True


def changes(old: Sequence[Record], new: Sequence[Record]) -> str:
    """Describe how lists of shards differ: which have other content, are gone, or are new."""
    before = {record[2] for record in old}
    after = {record[2] for record in new}
    gone = {name: samples for name, samples, sha256 in old if sha256 not in after}
    come = {name: samples for name, samples, sha256 in new if sha256 not in before}
    changed = [f"{name} ({gone[name]} -> {come[name]} samples)" for name in gone if name in come]
    kinds = {
        "changed": changed,
        "gone": [name for name in gone if name not in come],
        "new": [name for name in come if name not in gone],
    }
    told = [f"{kind} {listing(names)}" for kind, names in kinds.items() if names]
    return ", ".join(told) or "the shards come in another order, or other numbers of times"


def listing(names: Sequence[str]) -> str:
    """Join the first few names."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}"
