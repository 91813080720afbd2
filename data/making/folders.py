"""Listing the images of a folder: flat, with a sub-folder for each class, or split already."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from data.making.entries import Entry, Listing, key_of
from data.making.labels import listed
from data.making.walking import find_images

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
MASKS = {"mask", "masks", "label", "labels", "annotation", "annotations", "gt", "groundtruth"} | {
    *("truth", "segmentation", "segmentations", "segmentationclass", "seg")
}
MASK_OF = re.compile(r"(.+?)[_\-. ]?(mask|seg|segmentation|gt|label|labels)", re.IGNORECASE)


# the words in names such as training_set, seg_test, train2017 and trainA
WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


@dataclass(frozen=True)
class Place:
    """Where an image lies: its file, its name with those of the folders from some folder on, and
    its key."""

    path: Path
    parts: tuple[str, ...]
    key: str = ""

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        name = self.parts[-1]
        return name.rpartition(".")[0] or name

    def inside(self) -> "Place":
        """The same place, seen from one folder further in."""
        return Place(self.path, self.parts[1:], self.key)


def list_folder(root: Path) -> Listing:
    """List the images of a folder; see `find_entries`.

    A sub-folder is a class. Sub-folders that are named like splits hold classes, or images without
    labels, and are the prefixes of the shards; so are they in each class. A folder that holds
    nothing but the folder of the classes is stepped into. Names are compared, and become keys and
    classes, in the composed form of Unicode (NFC).

    Raises:
        OSError: A folder cannot be read.
        ValueError: The layout can be read in two ways.
    """
    found = find_images(root)
    places = [
        Place(root / name, tuple(unicodedata.normalize("NFC", part) for part in name.parts))
        for name in found.images
    ]
    twins = [*found.notes, *two_forms(root, found.images)]
    if found.empty:
        twins.append(f"{len(found.empty)} folders hold no image, such as {root / found.empty[0]}")
    base, places, notes = unwrap(root, places)
    places = [Place(place.path, place.parts, key_of(place.parts)) for place in places]
    placed, more = by_splits(base, places)
    if len(only := {label for _, label, _ in placed}) == 1 and only != {None}:
        more.append(f"{only.pop()} is the only class: to have no labels, give its folder instead")
    entries = [
        Entry(path=place.path, key=place.key, label=label, split=split)
        for place, label, split in placed
    ]
    return Listing(entries=entries, left_out=found.left_out, notes=[*twins, *notes, *more])


Labelled = tuple[Place, str | None, str | None]  # an image, its class and its split


def by_splits(root: Path, places: Sequence[Place]) -> tuple[list[Labelled], list[str]]:
    """Tell splits from classes.

    Returns:
        The images with their classes and splits, and what was assumed.

    Raises:
        ValueError: See `list_folder`.
    """
    refuse_masks(root, places)
    tops = sorted({place.parts[0] for place in places if len(place.parts) > 1})
    outer = {name: SPLITS.get(name.lower()) for name in tops}
    worded = {name: split_in(name) for name in tops}
    if all(worded.values()) and len(set(worded.values())) > 1:
        outer = worded
    if tops and all(outer.values()):
        refuse_twice(root, outer)
        groups: defaultdict[str, list[Place]] = defaultdict(list)
        for place in places:
            groups[place.parts[0] if len(place.parts) > 1 else ""].append(place)
        if "" in groups:
            raise ValueError(mixed(root, len(groups[""]), len(places)))
        found: list[Labelled] = []
        notes = [f"{root}: taken as splits, not as classes: {', '.join(tops)}"]
        for name, group in groups.items():
            base, inside, more = unwrap(root / name, [place.inside() for place in group])
            notes += more
            refuse_masks(base, inside)
            notes += doubts(inside)
            found += [(place, label, outer[name]) for place, label in by_classes(base, inside)]
        return found, notes
    inner = {
        name: SPLITS.get(name.lower())
        for name in sorted({place.parts[1] for place in places if len(place.parts) > 2})
    }
    if len(set(inner.values()) - {None}) > 1:
        if None in inner.values() or any(len(place.parts) < 3 for place in places):
            raise ValueError(ambiguous(root, inner))
        refuse_twice(root, inner)
        notes = [f"{root}: taken as splits, in each class: {', '.join(inner)}"]
        return [(p, p.parts[0], inner[p.parts[1]]) for p in places], notes
    like_splits = {name for name in tops if outer[name]}
    deep = all(len(place.parts) > 2 for place in places if place.parts[0] in like_splits)
    if len({outer[name] for name in like_splits}) > 1 or (like_splits and deep):
        raise ValueError(ambiguous(root, outer))
    classed: list[Labelled] = [(place, label, None) for place, label in by_classes(root, places)]
    return classed, doubts(places)


def by_classes(root: Path, places: Sequence[Place]) -> list[tuple[Place, str | None]]:
    """Give images the name of their sub-folder as their class; none, if there are no sub-folders.

    Raises:
        ValueError: Images lie both in the folder itself and in sub-folders.
    """
    flat = sum(len(place.parts) == 1 for place in places)
    if 0 < flat < len(places):
        raise ValueError(mixed(root, flat, len(places)))
    return [(place, None if flat else place.parts[0]) for place in places]


def unwrap(root: Path, places: Sequence[Place]) -> tuple[Path, Sequence[Place], list[str]]:
    """Step into the folder that holds all images, in two or more sub-folders or in those of splits.

    Returns:
        The folder that holds the classes, the images as seen from it, and what was assumed.
    """
    folders = [place.parts[:-1] for place in places]
    pairs = zip(min(folders, default=()), max(folders, default=()), strict=False)
    common = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    depth = next((n for n, name in enumerate(common) if name.lower() in SPLITS), len(common))
    if not depth or any(len(place.parts) < depth + 2 for place in places):
        return root, places, []
    base = root.joinpath(*common[:depth])
    inside = [Place(place.path, place.parts[depth:], place.key) for place in places]
    return base, inside, [f"all images of {root} lie in {base}, which is stepped into"]


def split_in(name: str) -> str | None:
    """The split that a word in a name names; None if no word does, or words name several."""
    splits = {SPLITS[word] for part in WORDS.findall(name) if (word := part.lower()) in SPLITS}
    return splits.pop() if len(splits) == 1 else None


def doubts(places: Sequence[Place]) -> list[str]:
    """Say where the sub-folders of a folder may be something else than classes."""
    inside: defaultdict[str, set[str]] = defaultdict(set)
    for place in places:
        if len(place.parts) > 1:
            inside[place.parts[0]].add(place.parts[1] if len(place.parts) > 2 else "")
    (first, *others) = inside.values() if inside else [set[str]()]
    if others and len(first - {""}) > 1 and all(other == first for other in others):
        return [
            f"each of the {len(inside)} classes, such as {min(inside)}, has the folders"
            f" {listed(sorted(first))}: if these are the classes, put them outermost"
        ]
    return []


def refuse_masks(root: Path, places: Sequence[Place]) -> None:
    """Check that no masks stand beside the images that they belong to.

    Raises:
        ValueError: A folder is named like one of masks and its files like the images of another, or
            files are named like the masks of others beside them.
    """
    stems: defaultdict[str, set[str]] = defaultdict(set)
    for place in places:
        stems[place.parts[0] if len(place.parts) > 1 else ""].add(place.stem)
    way_out = "write the masks into a folder of their own and name it with --masks"
    for name in sorted(stems):
        if not MASKS & set(re.split(r"[^a-z]+", name.lower())):
            continue
        bases = {stem if (m := MASK_OF.fullmatch(stem)) is None else m[1] for stem in stems[name]}
        for other in sorted(set(stems) - {name}):
            if 2 * len((bases | stems[name]) & stems[other]) > len(stems[name]):
                raise ValueError(
                    f"{root / name} seems to hold the masks of the images in {root / other}, whose"
                    f" names are the same, and no class: give {root / other} as the source, with"
                    f" --masks {root / name}; or rename {name}"
                )
    files = {(place.parts[:-1], place.stem) for place in places}
    for folder, stem in sorted(files):
        match = MASK_OF.fullmatch(stem)
        if match is not None and (folder, match[1]) in files:
            raise ValueError(
                f"{root.joinpath(*folder)}: {stem} seems to be the mask of {match[1]} beside it:"
                f" {way_out}, or rename them"
            )


def refuse_twice(root: Path, splits: dict[str, str | None]) -> None:
    """Check that no two folders are the same split.

    Raises:
        ValueError: Two are.
    """
    for split, count in Counter(splits.values()).items():
        if count > 1:
            names = " and ".join(name for name, other in splits.items() if other == split)
            raise ValueError(f"{root}: {names} both name the split {split!r}: rename one of them")


def two_forms(root: Path, names: Sequence[Path]) -> list[str]:
    """Say which folders have one name in two forms of Unicode, a line each."""
    forms: defaultdict[str, set[str]] = defaultdict(set)
    for folder in {"/".join(name.parts[:-1]) or "." for name in names}:
        forms[unicodedata.normalize("NFC", folder)].add(folder)
    return [
        f"{root}: {len(both)} folders are named {name!r}, in different forms of Unicode: they are"
        " taken as one"
        for name, both in sorted(forms.items())
        if len(both) > 1
    ]


def mixed(root: Path, flat: int, every: int) -> str:
    """The error of a folder with images both in itself and in sub-folders."""
    return (
        f"{root} holds {flat} images itself and {every - flat} in sub-folders; put every image into"
        " the sub-folder of its class, or all of them into the folder itself"
    )


def ambiguous(root: Path, names: dict[str, str | None]) -> str:
    """The error of a folder in which some names are those of splits and others are not."""
    like = ", ".join(name for name, split in names.items() if split)
    others = ", ".join(name for name, split in names.items() if not split) or "images"
    return (
        f"{root}: {like} may be splits or classes, beside {others}: give one split as the source,"
        " with --prefix, or move or rename folders"
    )
