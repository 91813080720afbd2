"""The names of classes, by which labels of shards in several directories are compared."""

from collections.abc import Sequence
from functools import cache

from accelerate import PartialState

from data.config import SourceConfig
from data.shards.addresses import directory_of
from data.shards.class_names import CLASSES, parse_names
from data.shards.index import Shard
from data.shards.reading import read_beside
from data.shards.samples import ShardSamples
from fcmae.run.terminal import say


def class_names(samples: ShardSamples) -> list[str]:
    """What classes.json beside the first shard names, as `fcmae shards make` writes it."""
    return names_in(directory_of(samples.shards[0].url), samples.source)


def names_in(directory: str, source: SourceConfig) -> list[str]:
    """The names in classes.json of a directory on this machine or another; none if it has none.

    Raises:
        OSError: a server does not answer, see `data.shards.sources`.
        ValueError: the file is no list of names.
    """
    content = read_beside(directory, CLASSES, source)
    return [] if content is None else parse_names(content, f"{directory}/{CLASSES}")


def names_for(named: Sequence[str], classes: int) -> Sequence[str]:
    """The names of so many classes: those that are given, or numbers where they are fewer."""
    return named if len(named) >= classes else [str(i) for i in range(classes)]


def numbers_of(shards: Sequence[Shard], first: str, source: SourceConfig) -> dict[str, list[int]]:
    """How classes are numbered anew, so that a name has one number in all directories.

    Args:
        shards: whose labels are read.
        first: the directory whose numbers count, that of the first training shard.
        source: how remote directories are read.

    Returns:
        The new numbers of the classes 0, 1 and so on, for each directory that numbers them
        otherwise. A directory without classes.json keeps its numbers, which is said.

    Raises:
        OSError: see `names_in`.
        ValueError: a directory names a class that `first` lacks; see `names_in`, too.
    """
    directories = sorted({directory_of(shard.url) for shard in shards} - {first})
    names = names_in(first, source) if directories else []
    numbers: dict[str, list[int]] = {}
    for directory in directories:
        others = names_in(directory, source)
        if others == names:
            continue
        if not names or not others:
            lacking, having = (directory, first) if names else (first, directory)
            say_once(
                f"{lacking} has no {CLASSES}: its labels are taken as numbers of the classes in"
                f" {having}/{CLASSES}"
            )
            continue
        twins = {name for some in (names, others) for name in some if some.count(name) > 1}
        if twins:
            raise ValueError(
                f"{directory}/{CLASSES} and {first}/{CLASSES} differ, and have several classes"
                f" called {', '.join(sorted(twins))}: give each its own name, to compare them by"
            )
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
def say_once(line: str) -> None:
    """Print a line on standard error, once, from one of the processes."""
    if PartialState().is_main_process:
        say(line, error=True)
