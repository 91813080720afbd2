"""The training data of a run: a record of its shards, and the check that a restart has the same.

The order of samples is a function of the sizes and the order of the shards, and a checkpoint holds
no more than how many samples were seen. So a run can only go on as it began on the same data.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from fcmae.run.files import text_sha256, write_json
from fcmae.run.json_files import field_of, read_json

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


def read_data(path: Path) -> list[Record]:
    """Read the record of the shards of a run.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    shards = read_json(path, dict)
    try:
        return list(field_of(shards, "shards", tuple[Record, ...]))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def check_data(run: Path, shards: Sequence[Shard], say: Callable[[str], object]) -> bool:
    """Compare the shards of a restart with those that the run has trained on.

    Shards may have moved, or have other names, if their contents are the same in the same order.

    Args:
        run: the directory of the run.
        shards: those of this start.
        say: prints a sentence about a record that cannot be compared.

    Returns:
        Whether the run has a whole record; those of earlier versions have none.

    Raises:
        ValueError: shards differ; the message names them.
    """
    try:
        old = read_data(run / DATA)
    except FileNotFoundError:
        say(f"{run / DATA} is missing: this start records its shards, and compares their paths")
        return False
    except ValueError as error:
        say(f"{error}; only the paths of the shards are compared")
        return False
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
