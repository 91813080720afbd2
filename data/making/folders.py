"""Listing the images of a flat folder, or of a folder with one sub-folder a class."""

from pathlib import Path

from data.config import IMAGE_SUFFIXES
from data.making.entries import Entry, Listing, key_of


def list_folder(root: Path) -> Listing:
    """List the images of a folder; see `find_entries`."""
    names = [
        path.relative_to(root)
        for path in root.rglob("*")
        if path.suffix.lower()[1:] in IMAGE_SUFFIXES and path.is_file()
    ]
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    flat = sum(len(name.parts) == 1 for name in names)
    if 0 < flat < len(names):
        raise ValueError(
            f"{root} holds {flat} images itself and {len(names) - flat} in sub-folders; put every "
            "image into the sub-folder of its class, or all of them into the folder itself"
        )
    entries = [
        Entry(path=root / name, key=key_of(name), label=None if flat else name.parts[0])
        for name in names
    ]
    return Listing(entries=entries)
