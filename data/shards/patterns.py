"""Patterns of shards: braces and wildcards are expanded, and every shard must be there."""

import glob
from collections.abc import Sequence
from pathlib import Path

from braceexpand import braceexpand

from data.shards.addresses import Address, is_remote, refuse_cut_off
from fcmae.run.secrets import public

LISTED = 10  # how many missing shards an error names


def expand(spec: str | Sequence[str]) -> list[str]:
    """The paths and URLs that patterns of shards stand for, in their order.

    Braces such as `{000000..000003}` are expanded first. Then each wildcard (`*`, `?`, `[0-9]`) of
    a path gives the files that match it, sorted by name. A file whose own name has such characters
    is taken as it is.

    Args:
        spec: A path or URL, a pattern, or a list of these.

    Raises:
        ValueError: `spec` names no shard, names one twice, names a folder, or has a wildcard in a
            URL, whose server cannot be asked for a list.
        FileNotFoundError: Shards do not exist; the message names them. Or a wildcard matches none.
    """
    patterns = [spec] if isinstance(spec, str) else list(spec)
    urls = [
        url for pattern in patterns for brace in braceexpand(pattern) for url in matching(brace)
    ]
    if not urls:
        raise ValueError(
            f"{in_words(spec)} names no shard; "
            "give a path or a pattern like 'DIR/train-{000000..000003}.tar'"
        )
    refuse_missing([Path(url) for url in urls if not is_remote(url)], spec)
    places: set[str] = set()
    for url in urls:
        place = Address(url) if is_remote(url) else str(Path(url).resolve())
        if place in places:
            raise ValueError(
                f"shard {public(url)} is named twice in {in_words(spec)}; name every shard once, by"
                " its path: what follows a ? in a URL names no shard"
            )
        places.add(place)
    return urls


def matching(pattern: str) -> list[str]:
    """The paths that match a pattern without braces, sorted; itself if it has no wildcard.

    Raises:
        ValueError: The pattern is a URL with a wildcard, or with a password that ends it.
        FileNotFoundError: Nothing matches.
    """
    if not pattern:
        return []
    if is_remote(pattern):
        if "*" not in pattern.partition("?")[0]:
            refuse_cut_off(pattern)
            return [pattern]
        raise ValueError(
            f"{public(pattern)} has a wildcard, and servers do not list their shards; give the"
            " numbers in braces, like 'train-{000000..000003}.tar'"
        )
    if not glob.has_magic(pattern) or Path(pattern).exists():
        return [pattern]
    found = sorted(glob.glob(pattern))  # noqa: PTH207  # a pattern may be absolute
    if not found:
        raise FileNotFoundError(f"no shard matches {pattern!r}; check the folder and the pattern")
    return found


def in_words(spec: str | Sequence[str]) -> str:
    """Patterns of shards as a message shows them."""
    patterns = [spec] if isinstance(spec, str) else spec
    return " ".join(repr(public(pattern)) for pattern in patterns) or "nothing"


def refuse_missing(paths: Sequence[Path], spec: str | Sequence[str]) -> None:
    """Check that all these paths are files.

    Args:
        paths: The paths of shards.
        spec: What the user gave, for errors.

    Raises:
        ValueError: A path is a folder.
        FileNotFoundError: Files do not exist.
    """
    for path in paths:
        if path.is_dir():
            raise ValueError(
                f"{path} is a directory; name its shards, like '{path}/*.tar' or"
                f" '{path}/train-{{000000..000003}}.tar'"
            )
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise not_found(missing, len(paths), spec)


def not_found(missing: Sequence[str], total: int, spec: str | Sequence[str]) -> FileNotFoundError:
    """The error that names shards which do not exist.

    Args:
        missing: The paths or URLs of these shards.
        total: The number of shards that were asked for.
        spec: What the user gave.
    """
    if len(missing) == 1:
        what = f"shard {missing[0]} does not exist"
    else:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        what = f"{len(missing)} of {total} shards do not exist: {', '.join(missing[:LISTED])}{more}"
    return FileNotFoundError(
        f"{what}; check the pattern {in_words(spec)}, or build what is missing"
        " (fcmae shards make; the embedded set: fcmae demo build)"
    )
