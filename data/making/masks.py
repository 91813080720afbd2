"""Masks for images: which file belongs to which image, and what masks together have to hold."""

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data.config import IGNORED
from data.making.entries import Cell, Entry
from data.making.folders import MASK_OF
from data.making.tables.arrow import unpack
from data.making.tables.labels import is_missing
from data.making.tables.paths import find_files

SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".npy")
MOST_NAMED = 10  # classes that are never there


def with_masks(
    entries: Sequence[Entry], masks: str, source: Path, cells: Path
) -> tuple[list[Entry], list[str]]:
    """Give each image its mask.

    Args:
        entries: The images.
        masks: A folder, whose files have the names of their images, perhaps with an ending such as
            `_mask`; or else the column of a table, with paths or with the masks themselves.
        source: The table, at whose folder relative paths start.
        cells: Where masks go that lie in cells of a table, see `unpack`.

    Returns:
        The images, and a line on those without a mask, and on masks without an image.

    Raises:
        FileNotFoundError: A mask that a table names does not exist.
        ValueError: No image has a mask, two masks may belong to one image, or one to two, or there
            is neither such a folder nor such a column.
    """
    notes = []
    if Path(masks).is_dir():
        found, unused = by_name(entries, Path(masks))
        if unused:
            notes.append(f"{masks}: {unused} masks belong to no image and are left out")
    elif any(masks in entry.metadata for entry in entries):
        named = [e for e in entries if not is_missing(e.metadata.get(masks))]
        names, base, notes = find_files([e.metadata[masks] for e in named], source)
        found = {e.key: base / name for e, name in zip(named, names, strict=True)}
    elif any(entry.cell for entry in entries):
        unpacked = unpack(
            [replace(e, cell=Cell(masks, e.cell.row)) for e in entries if e.cell], cells
        )
        found = {entry.key: entry.path for entry in unpacked}
    else:
        columns = ", ".join({name: None for e in entries for name in e.metadata}) or "none"
        raise ValueError(
            f"--masks {masks} is no folder, and no column of a table; its columns are {columns}"
        )
    without = [entry for entry in entries if entry.key not in found]
    if len(without) == len(entries):
        raise ValueError(
            f"none of the {len(entries)} images has a mask in {masks}, such as {without[0].path}: a"
            f" mask is named as its image, perhaps with _mask, and ends in {', '.join(SUFFIXES)}"
        )
    if without:
        notes.append(
            f"{len(without)} of {len(entries)} images have no mask, such as {without[0].path}: they"
            " are taken without one"
        )
    entries = [
        replace(
            entry,
            mask=found.get(entry.key),
            metadata={k: v for k, v in entry.metadata.items() if k != masks},
        )
        for entry in entries
    ]
    return entries, notes


def by_name(entries: Sequence[Entry], folder: Path) -> tuple[dict[str, Path], int]:
    """Find the masks of images in a folder by their names.

    Of several masks with the name of an image, the one in the sub-folder that is named like that of
    the image is meant.

    Returns:
        The masks by the key of their images, and how many masks belong to none.

    Raises:
        ValueError: Two masks may belong to one image, or one to two.
    """
    masks = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    by_stem: defaultdict[str, list[Path]] = defaultdict(list)
    for path in masks:
        stem = unicodedata.normalize("NFC", path.stem)
        ending = MASK_OF.fullmatch(stem)
        for name in {stem, ending[1] if ending else stem}:
            by_stem[name.replace(".", "_")].append(path)  # as in keys
    found: dict[str, Path] = {}
    owners: dict[Path, Entry] = {}
    for entry in entries:
        own = by_stem[unicodedata.normalize("NFC", entry.key.rpartition("/")[2])]
        if len(own) > 1:
            own = [path for path in own if beside(path.relative_to(folder), entry.path)] or own
        if len(own) > 1:
            raise ValueError(
                f"{own[0]} and {own[1]} may both be the mask of {entry.path}: remove one, or name"
                " the masks in a column of a table"
            )
        for mask in own:
            other = owners.setdefault(mask, entry)
            if other is not entry:
                raise ValueError(
                    f"{mask} may be the mask of {other.path} and of {entry.path}: put masks into"
                    " sub-folders as the images are, or name them in a column of a table"
                )
            found[entry.key] = mask
    return found, len(masks) - len(owners)


def beside(mask: Path, image: Path) -> bool:
    """Whether the sub-folders of a mask are the last ones of an image."""
    folders = mask.parent.parts
    return not folders or image.parent.parts[-len(folders) :] == folders


def values_of(text: str | None) -> tuple[int, ...]:
    """The values that stand for classes 0, 1, ..., written with commas; none for None.

    Raises:
        ValueError: They are no different whole numbers from 0 on.
    """
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words) or len(set(words)) < len(words):
        raise ValueError(
            f"--mask-values {text} must be different whole numbers with commas, such as 0,255: the"
            " values in masks that become the classes 0, 1, ..."
        )
    return tuple(map(int, words))


def describe_masks(pixels: Mapping[int, int], values: Sequence[int]) -> str:
    """Say which share of the pixels each class has, and which classes are never there.

    Args:
        pixels: The number of pixels of each class in all masks; of 255, those to be ignored.
        values: The values that were mapped to classes; none if values are classes.

    Raises:
        ValueError: There is only one class, or the only values are 0 and 255.
    """
    present = {number: count for number, count in sorted(pixels.items()) if number != IGNORED}
    if not values and set(pixels) == {0, IGNORED}:
        raise ValueError(
            "all pixels of all masks are 0 or 255, and 255 is ignored, so class 0 would be all"
            " there is: --mask-values 0,255 makes them the classes 0 and 1"
        )
    if len(present) < 2:
        only = next(iter(present), None)
        raise ValueError(
            f"all pixels of all masks are of class {only}, from which nothing is learned: leave"
            " --masks out, or name the values that stand for classes with --mask-values 0,255"
        )
    count = len(values) or max(present) + 1
    total = sum(present.values())
    shares = ", ".join(f"{number} {present[number] / total:.2%}" for number in present)
    absent = [str(number) for number in range(count) if number not in present]
    ignored = f"; {pixels[IGNORED]} pixels of 255 are ignored" if pixels.get(IGNORED) else ""
    never = f"; never there: class {', '.join(absent[:MOST_NAMED])}" if absent else ""
    if len(absent) > MOST_NAMED:
        advised = ",".join(map(str, present))
        never += (
            f" and {len(absent) - MOST_NAMED} more: if the values are not the numbers of classes,"
            f" name them, as --mask-values {advised}"
        )
    return f"masks of {count} classes: {shares}{ignored}{never}"
