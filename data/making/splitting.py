"""The order of images in shards, and which shards they go into: to train, validate or test."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from data.making.entries import Entry
from fcmae.run.files import text_sha256


def shuffle(entries: Iterable[Entry], seed: int) -> list[Entry]:
    """Order entries by a hash of the seed and their keys, which mixes the classes."""
    return sorted(entries, key=lambda entry: text_sha256(f"{seed}/{entry.key}"))


def by_prefix(
    entries: Sequence[Entry],
    prefix: str,
    shares: Mapping[str, float],
    how: Literal["hashed", "stratified"],
) -> dict[str, list[Entry]]:
    """Group entries by the prefix of the shards that they go into.

    Args:
        entries: The images. Those with a split of their own go into shards of that prefix.
        prefix: Of all others; where the source has splits, it is the one that shares are taken of.
        shares: The shares to split off, by prefix. A share of 0 is none.
        how: See `split`.

    Raises:
        ValueError: A part has a prefix twice, or see `split`.
    """
    parts: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        parts[entry.split or prefix].append(entry)
    shares = {name: share for name, share in shares.items() if share}
    if twice := next((name for name in shares if name in parts), None):
        raise ValueError(
            f"--{twice} takes out images, but there is a part {twice!r} already: leave the flag out"
        )
    if not shares:
        return dict(parts)
    if prefix not in parts:
        raise ValueError(f"--{next(iter(shares))} takes images of {prefix!r}, which has none")
    return {prefix: [], **parts} | split(parts[prefix], prefix, shares, how)


def split(
    entries: Sequence[Entry],
    prefix: str,
    shares: Mapping[str, float],
    how: Literal["hashed", "stratified"],
) -> dict[str, list[Entry]]:
    """Split off about these shares of the entries.

    Args:
        entries: The images.
        prefix: The name of the rest.
        shares: The shares to split off, between 0 and 1, by name.
        how: "hashed" goes by a hash of the key, so an image keeps its side when others are added.
            "stratified" takes the share of each class, by the lowest hashes.

    Returns:
        The rest, and the entries that were split off, by name, all in the order of `entries`.

    Raises:
        ValueError: Entries to be stratified have no labels, or one part would be empty.
    """
    groups: defaultdict[str | int, list[str]] = defaultdict(list)
    for entry in entries:
        if how == "stratified" and entry.label is None:
            raise ValueError("--split stratified needs labels; take --split hashed")
        groups["" if entry.label is None or how == "hashed" else entry.label].append(entry.key)
    chosen: dict[str, str] = {}
    for keys in groups.values():
        begin = 0.0
        ordered = sorted(keys, key=text_sha256)
        for name, share in shares.items():
            end = begin + share
            if how == "hashed":
                taken = [key for key in keys if begin <= place_of(key) / 16**13 < end]
            else:
                taken = ordered[round(begin * len(keys)) : round(end * len(keys))]
            chosen |= dict.fromkeys(taken, name)
            begin = end
    parts: dict[str, list[Entry]] = {prefix: [], **{name: [] for name in shares}}
    for entry in entries:
        parts[chosen.get(entry.key, prefix)].append(entry)
    for name, part in parts.items():
        if not part:
            given = " ".join(f"--{other} {share}" for other, share in shares.items())
            raise ValueError(f"{given} of {len(entries)} images leaves {name!r} without any")
    return parts


def place_of(key: str) -> int:
    """The place of a key among all hashes, from 0 to 16 ** 13."""
    return int(text_sha256(key)[:13], 16)
