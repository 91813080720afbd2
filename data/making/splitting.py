"""The order of images in shards, and the share of them that validates."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

from data.making.entries import Entry
from fcmae.run.files import text_sha256


def shuffle(entries: Iterable[Entry], seed: int) -> list[Entry]:
    """Order entries by a hash of the seed and their keys, which mixes the classes."""
    return sorted(entries, key=lambda entry: text_sha256(f"{seed}/{entry.key}"))


def split(
    entries: list[Entry], share: float, how: Literal["hashed", "stratified"]
) -> tuple[list[Entry], list[Entry]]:
    """Split off about `share` of the entries.

    Args:
        entries: The images.
        share: The share to split off, between 0 and 1.
        how: "hashed" goes by a hash of the key, so an image keeps its side when others are added.
            "stratified" takes the share of each class, by the lowest hashes.

    Returns:
        The rest, and the entries that were split off, both in the order of `entries`.

    Raises:
        ValueError: Entries to be stratified have no labels, or one side would be empty.
    """
    if how == "hashed":
        chosen = {
            entry.key for entry in entries if int(text_sha256(entry.key)[:13], 16) < share * 16**13
        }
    else:
        by_class = defaultdict(list)
        for entry in entries:
            if entry.label is None:
                raise ValueError("--split stratified needs labels; take --split hashed")
            by_class[entry.label].append(entry.key)
        chosen = set()
        for keys in by_class.values():
            chosen.update(sorted(keys, key=text_sha256)[: round(share * len(keys))])
    if not 0 < len(chosen) < len(entries):
        raise ValueError(f"--val {share} of {len(entries)} images leaves one side empty")
    rest = [entry for entry in entries if entry.key not in chosen]
    return rest, [entry for entry in entries if entry.key in chosen]
