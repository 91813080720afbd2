"""Numbers for the names of classes."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from data.making.entries import Entry
from data.shards.index import read_index
from data.shards.reading import read_sample

DIGITS = 18  # of a number that is a label


def label_entries(
    entries: Sequence[Entry], classes: Sequence[str], where: Path
) -> tuple[list[Entry], list[str], list[str]]:
    """Turn the names of classes into numbers.

    Names that are all whole numbers, written plainly (`0`, `12`, not `01`), keep their value. All
    other names are numbered in the order of `classes`, or sorted.

    Args:
        entries: The images, some of which may have no label.
        classes: The names in the order of their numbers, to which the entries keep; empty for none.
        where: The file that holds `classes`, for errors.

    Returns:
        The entries with integer labels; the names of the classes, none if the labels are whole
        numbers that no names belong to; and what was assumed, a line each.

    Raises:
        ValueError: The class of an entry is not in `classes`, and is no number of one.
    """
    names = {str(entry.label) for entry in entries if entry.label is not None}
    whole = all(is_whole(name) for name in names)
    notes: list[str] = []
    if not names:
        numbers = {}
    elif names <= set(classes):
        numbers = {name: number for number, name in enumerate(classes)}
    elif classes:
        numbers = {str(number): number for number in range(len(classes))}
        unknown = sorted(names - (numbers.keys() if whole else set(classes)))
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is no class of {where} ({listed(classes)}), nor the number of one;"
                " shards in one directory share their labels: rename it or choose another directory"
            )
        notes.append(f"the labels are numbers, and taken as places in {where} ({listed(classes)})")
    elif whole:
        numbers = {name: int(name) for name in names}
        last = max(numbers.values())
        if last + 1 > len(numbers):
            notes.append(
                f"the labels are whole numbers and stay as they are; of 0 to {last},"
                f" {last + 1 - len(numbers)} have no image, which probes refuse"
            )
    else:
        classes = sorted(names)
        numbers = {name: number for number, name in enumerate(classes)}
    notes += twins(names)
    labelled = [
        entry if entry.label is None else replace(entry, label=numbers[str(entry.label)])
        for entry in entries
    ]
    return labelled, list(classes) if names else [], notes


def twins(names: Iterable[str]) -> list[str]:
    """Say which names are the same but for capital letters and blanks, as one line."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        alike[" ".join(name.casefold().split())].append(name)
    same = [" and ".join(map(repr, some)) for some in alike.values() if len(some) > 1]
    if not same:
        return []
    return [f"different classes, though alike but for capital letters or blanks: {listed(same)}"]


def refuse_numbered(directory: Path) -> None:
    """Check that no shard of a directory has labels that are numbers without names.

    Raises:
        ValueError: A shard has: names would be given to its numbers.
    """
    for shard in read_index(str(directory)).values():
        if "cls" in read_sample(shard, 0):
            raise ValueError(
                f"{shard.url} has labels, but no {directory / 'classes.json'} names them: choose"
                " another directory for labels with names"
            )


def is_whole(name: str) -> bool:
    """Whether a name is a whole number of at most DIGITS, written plainly: `10`, but not `01`."""
    return name.isascii() and name.isdigit() and len(name) <= DIGITS and str(int(name)) == name


def listed(names: Sequence[str]) -> str:
    """The first ten names, separated by commas."""
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
