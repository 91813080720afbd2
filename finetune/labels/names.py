"""The names of classes, by which labels of shards in several directories are compared."""

import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from accelerate import PartialState

from data.shards.index import Shard
from data.shards.reading import directory_of
from data.shards.samples import ShardSamples
from data.shards.sources import is_remote

CLASSES = "classes.json"


def class_names(samples: ShardSamples) -> list[str]:
    """What classes.json beside the first shard names, as scripts/make_shards.py writes it."""
    return names_in(directory_of(samples.shards[0].url))


def names_in(directory: str) -> list[str]:
    """The names in classes.json of a directory; none if it has none, or lies on another machine."""
    file = Path(directory) / CLASSES
    there = not is_remote(directory) and file.is_file()
    return json.loads(file.read_text(encoding="utf-8")) if there else []


def numbers_of(shards: Sequence[Shard], first: str) -> dict[str, list[int]]:
    """How classes are numbered anew, so that a name has one number in all directories.

    Args:
        shards: whose labels are read.
        first: the directory whose numbers count, that of the first training shard.

    Returns:
        The new numbers of the classes 0, 1 and so on, for each directory that numbers them
        otherwise. A directory without classes.json keeps its numbers, which is said.

    Raises:
        ValueError: a directory names a class that `first` lacks.
    """
    names = names_in(first)
    numbers: dict[str, list[int]] = {}
    for directory in sorted({directory_of(shard.url) for shard in shards} - {first}):
        others = names_in(directory)
        if others == names or is_remote(directory) or is_remote(first):
            continue
        if not names or not others:
            lacking, having = (directory, first) if names else (first, directory)
            say(
                f"{lacking} has no {CLASSES}: its labels are taken as numbers of the classes in"
                f" {having}/{CLASSES}"
            )
            continue
        unknown = [name for name in others if name not in names]
        if unknown:
            raise ValueError(
                f"{directory}/{CLASSES} names {', '.join(others)}; {first}/{CLASSES} lacks"
                f" {', '.join(unknown)} and names {', '.join(names)}: rename the classes, or leave"
                " those out that are not in both"
            )
        if others != names[: len(others)]:
            numbers[directory] = [names.index(name) for name in others]
    return numbers


def refuse_other_numbers(samples: ShardSamples) -> None:
    """Check that the classes of samples need no other numbers, which masks and lists do not get.

    Raises:
        ValueError: they do.
    """
    for directory in samples.numbers:
        raise ValueError(
            f"{directory}/{CLASSES} numbers the classes otherwise than {CLASSES} of the training"
            " data: number them alike in masks and lists, too"
        )


@cache
def say(line: str) -> None:
    """Print a line on standard error, once, from one of the processes."""
    if PartialState().is_main_process:
        print(line, file=sys.stderr)
