"""Numbers for the names of classes."""

from dataclasses import replace
from pathlib import Path

from data.making.entries import Entry


def label_entries(
    entries: list[Entry], classes: list[str], where: Path
) -> tuple[list[Entry], list[str]]:
    """Turn the names of classes into numbers. Labels that are integers stay.

    Args:
        entries: The images.
        classes: The names in the order of their numbers; if empty, the sorted names of `entries`.
        where: The file that holds `classes`, for errors.

    Returns:
        The entries with integer labels, and the names; none if the labels were integers already.

    Raises:
        ValueError: The class of an entry is not in `classes`.
    """
    names = sorted({entry.label for entry in entries if isinstance(entry.label, str)})
    known = classes or names
    place = {name: number for number, name in enumerate(known)}
    unknown = [name for name in names if name not in place]
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} is no class of {where}; shards in one directory share their "
            "labels: rename it or choose another directory"
        )
    labelled = [
        replace(entry, label=place[entry.label]) if isinstance(entry.label, str) else entry
        for entry in entries
    ]
    return labelled, known if names else []
