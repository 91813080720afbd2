"""Images that are in shards more than once, byte for byte, within a part or across parts."""

from collections.abc import Mapping, Sequence

from data.making.build import Built

LISTED = 3  # how many of each kind are named


def equal_images(parts: Mapping[str, Sequence[Built]]) -> list[str]:
    """Lines on images that are stored more than once: in one part, and in two parts.

    Args:
        parts: The shards of each part, by the prefix of their names.
    """
    first: dict[str, tuple[str, str]] = {}
    places: dict[str, list[tuple[str, str]]] = {}  # of the few that come again
    for prefix, part in parts.items():
        for built in part:
            for digest, path in built.digests:
                one = first.setdefault(digest, (prefix, path))
                if one != (prefix, path):
                    places.setdefault(digest, [one]).append((prefix, path))
    repeated = sorted(places.values())
    across = [found for found in repeated if len({prefix for prefix, _ in found}) > 1]
    within = [found for found in repeated if found not in across]
    lines = []
    if within:
        lines.append(f"{len(within)} images come twice or more, byte for byte: {named(within)}")
    if across:
        sides = " and ".join(sorted({prefix for found in across for prefix, _ in found}))
        lines.append(
            f"warning: {len(across)} images are in more than one of {sides}, byte for byte:"
            f" {named(across)}; remove all but one of each, or give them one value in a column and"
            " name it with --group"
        )
    return lines


def named(repeated: Sequence[Sequence[tuple[str, str]]]) -> str:
    """The first few images that are repeated, each with the places of two."""
    shown = [f"{found[0][1]} = {found[-1][1]}" for found in repeated[:LISTED]]
    return ", ".join(shown) + (", ..." if len(repeated) > LISTED else "")
