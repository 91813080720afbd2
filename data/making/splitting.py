"""The order of images in shards, and which shards they go into: to train, validate or test."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Literal

from data.making.entries import Entry
from data.making.tables.labels import is_missing, text_of
from fcmae.run.files import text_sha256


def shuffle(entries: Iterable[Entry], seed: int) -> list[Entry]:
    """Order entries by a hash of the seed and their keys, which mixes the classes."""
    return sorted(entries, key=lambda entry: text_sha256(f"{seed}/{entry.key}"))


def by_prefix(
    entries: Sequence[Entry],
    prefix: str,
    shares: Mapping[str, float],
    how: Literal["hashed", "stratified"],
    group: str | None = None,
) -> dict[str, list[Entry]]:
    """Group entries by the prefix of the shards that they go into.

    Args:
        entries: The images. Those with a split of their own go into shards of that prefix.
        prefix: Of all others; where the source has splits, it is the one that shares are taken of.
        shares: The shares to split off, by prefix. A share of 0 is none.
        how: See `split`.
        group: See `split`.

    Raises:
        ValueError: A part has a prefix twice, a group is in two parts of the source, or nothing is
            split by groups. See also `split`.
    """
    parts: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        parts[entry.split or prefix].append(entry)
    shares = {name: share for name, share in shares.items() if share}
    if twice := next((name for name in shares if name in parts), None):
        raise ValueError(
            f"--{twice} takes out images, but there is a part {twice!r} already: leave the flag out"
        )
    if group is not None:
        refuse_divided(parts, group)
        if not shares and len(parts) == 1:
            raise ValueError(f"--group {group} keeps groups together where --val or --test splits")
    if not shares:
        return dict(parts)
    if prefix not in parts:
        raise ValueError(f"--{next(iter(shares))} takes images of {prefix!r}, which has none")
    return {prefix: [], **parts} | split(parts[prefix], prefix, shares, how, group)


def split(
    entries: Sequence[Entry],
    prefix: str,
    shares: Mapping[str, float],
    how: Literal["hashed", "stratified"],
    group: str | None = None,
) -> dict[str, list[Entry]]:
    """Split off about these shares of the entries.

    Args:
        entries: The images.
        prefix: The name of the rest.
        shares: The shares to split off, between 0 and 1, by name.
        how: "hashed" goes by a hash of the key, so an image keeps its side when others are added.
            "stratified" takes the share of each class, by the lowest hashes.
        group: The column whose value stands for the key, so that images with one value stay
            together; a group belongs to its most frequent class. None for each image by itself.

    Returns:
        The rest, and the entries that were split off, by name, all in the order of `entries`.

    Raises:
        ValueError: Entries to be stratified have no labels, an entry has no group, or one part
            would be empty.
    """
    units = [unit_of(entry, group) for entry in entries]
    if how == "stratified" and any(entry.label is None for entry in entries):
        raise ValueError("--split stratified needs labels; take --split hashed")
    labels = [None if how == "hashed" else entry.label for entry in entries]
    frequent: dict[str, str | int | None] = {}
    for (unit, label), _ in Counter(zip(units, labels, strict=True)).most_common():
        frequent.setdefault(unit, label)
    members = Counter(units)
    strata: defaultdict[str | int | None, list[str]] = defaultdict(list)
    for unit in sorted(members, key=text_sha256):
        strata[frequent[unit]].append(unit)
    chosen: dict[str, str] = {}
    for ordered in strata.values():
        sizes = [members[unit] for unit in ordered]
        begin = 0.0
        for name, share in shares.items():
            end = begin + share
            if how == "hashed":
                taken = [unit for unit in ordered if begin <= place_of(unit) / 16**13 < end]
            else:
                low, high = (round(edge * sum(sizes)) for edge in (begin, end))
                middles = (
                    last - size / 2 for last, size in zip(accumulate(sizes), sizes, strict=True)
                )
                taken = [
                    u for u, middle in zip(ordered, middles, strict=True) if low <= middle < high
                ]
            chosen |= dict.fromkeys(taken, name)
            begin = end
    parts: dict[str, list[Entry]] = {prefix: [], **{name: [] for name in shares}}
    for entry, unit in zip(entries, units, strict=True):
        parts[chosen.get(unit, prefix)].append(entry)
    for name, part in parts.items():
        if not part:
            given = " ".join(f"--{other} {share}" for other, share in shares.items())
            of = f"{len(members)} groups" if group is not None else f"{len(entries)} images"
            raise ValueError(f"{given} of {of} leaves {name!r} without any")
    return parts


def unit_of(entry: Entry, group: str | None) -> str:
    """What stays on one side: the key of an image, or the value that it has in a column.

    Raises:
        ValueError: It has no value there.
    """
    if group is None:
        return entry.key
    value = entry.metadata.get(group)
    if is_missing(value):
        columns = ", ".join(entry.metadata) or "none"
        raise ValueError(
            f"{entry.path} has no {group!r}, the column of --group; the columns of its table are"
            f" {columns} (besides path and label): name one that every image has a value in"
        )
    return text_of(value).strip()


def refuse_divided(parts: Mapping[str, Sequence[Entry]], group: str) -> None:
    """Check that no group is in two parts.

    Raises:
        ValueError: A group is, or an entry has none.
    """
    sides: dict[str, str] = {}
    for name, part in parts.items():
        for entry in part:
            unit = unit_of(entry, group)
            if sides.setdefault(unit, name) != name:
                raise ValueError(
                    f"{group} {unit!r} is in {sides[unit]!r} and in {name!r} of the source: put all"
                    " its images on one side, or leave --group out"
                )


def place_of(key: str) -> int:
    """The place of a key among all hashes, from 0 to 16 ** 13."""
    return int(text_sha256(key)[:13], 16)
