"""The embedded glyphs: capitals and digits of 306 fonts, grey, 64 px, in 34 classes.

`fcmae glyphs` tells where the shards are: in `data/glyphs/` of a checkout, not in the wheel.
`fcmae glyphs build` makes them again, from the packages on npm that `data.sets.fonts` lists.
`fcmae glyphs check` compares them with their hashes and counts the images. The file
`data/glyphs/NOTICE` lists the fonts, their licences and what was changed.

The classes are A to Z and 2 to 9. 0 and 1 are left out, since many fonts draw O and 0, or I and 1,
alike once they are as large as each other; so are small letters, of which c, o, s and others are
small capitals. Each glyph is centred and as large as its margin lets it be.

All fonts of a designer's family (Alegreya, Alegreya Sans) form one group, and a whole group is
either in train or in test. A font that looks like one before it in the list is left out, whatever
its name is: many fonts have the Latin letters of another.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import PIL
import tyro
from PIL import Image, features

from data.sets.drawn_fonts import (
    CHARACTERS,
    LEVELS,
    LICENCES,
    MARGIN,
    SIZE,
    Font,
    read_fonts,
)
from data.sets.embedded import Embedded, Split, encode_png, held_out, tell
from data.sets.fonts import FONTS
from data.sets.packages import download
from data.shards.index import write_index
from fcmae.run.files import text_sha256, write_text

GLYPHS = Embedded(
    name="glyphs",
    about="glyphs of fonts, in 34 classes",
    needs="npm",
    classes=CHARACTERS,
    train_shards=4,
)
HERE = GLYPHS.folder
TRAIN = GLYPHS.train
TEST = GLYPHS.test
# The last words of a name that distinguish the fonts of a family.
WORDS = """
    sans serif slab mono code text display headline caption notch
    condensed narrow expanded exa zetta round rounded tight black
    sc infant alternates decorative brush sketch shade stencil
    one two pro new next 1 2 3 4 10 13px 27px 2p
"""
VARIANTS = frozenset(WORDS.split())


@dataclass(frozen=True, kw_only=True)
class Glyphs:
    """The embedded glyphs: capitals and digits of 306 fonts, 64 px, in 34 classes."""

    action: Annotated[Literal["where", "build", "check"], tyro.conf.Positional] = "where"
    """where: tell the paths of the shards. build: make them, from the fonts' packages on npm.
    check: compare them with their hashes, and count the images of each class."""
    source: Path | None = None
    """For build: a folder with the tarballs that `npm pack` writes; by default npm downloads them.
    """
    out: Path = HERE
    """For build: the folder for the shards. It replaces those of an earlier build."""


def group_of(name: str) -> str:
    """The family of a font, which is its name without last words that distinguish variants."""
    words = name.split("-")
    while len(words) > 1 and words[-1] in VARIANTS:
        words.pop()
    return "-".join(words)


def split_fonts(fonts: Sequence[Font]) -> dict[Split, list[Font]]:
    """The fonts of each split; a group is on one side."""
    test = held_out(group_of(font.name) for font in fonts)
    return {
        "train": [font for font in fonts if group_of(font.name) not in test],
        "test": [font for font in fonts if group_of(font.name) in test],
    }


def make_samples(fonts: Sequence[Font]) -> Iterator[dict[str, Any]]:
    """Yield the glyphs of fonts as samples with the members png, cls and json.

    The order is that of the SHA-256 of the keys, so shards mix classes and fonts.
    """
    places = {
        f"{font.name}/{character}": (font, label)
        for font in fonts
        for label, character in enumerate(CHARACTERS)
    }
    for key in sorted(places, key=text_sha256):
        font, label = places[key]
        yield {
            "__key__": key,
            "png": encode_png(Image.fromarray(font.glyphs[label])),
            "cls": label,
            "json": {"family": font.family, "style": font.style, "group": group_of(font.name)},
        }


def notice(fonts: Sequence[Font]) -> str:
    """The text of NOTICE: the fonts with their licences, and what was changed."""
    made = f"Pillow {PIL.__version__} and FreeType {features.version('freetype2')}"
    files = [f"  {licence}: LICENSE-{licence} beside this file" for licence in LICENCES]
    entries = [
        f"{font.family}\n  {font.package.name} {font.package.version}, {font.licence}\n"
        f"  {font.copyright}\n"
        for font in fonts
    ]
    return "\n".join(
        [
            "Glyphs of fonts",
            "",
            "The images in the tar shards of this directory are drawn with the fonts below, taken",
            "from the npm packages of the Fontsource project (https://fontsource.org). No font is",
            "part of this data set. The fonts are licensed under the licences that stand beside",
            "their names:",
            "",
            *files,
            "",
            "What was changed: A to Z and 2 to 9 of the latin subset in weight 400 were drawn with",
            f"{made}, each centred, {SIZE - 2 * MARGIN} of {SIZE} pixels long,",
            f"black on white in {LEVELS} greys, and stored losslessly as PNG. Each image was given",
            "a label (its character) and a group (the name of its font without last words that",
            "tell variants apart). `fcmae glyphs build` does all of it.",
            "",
            "Reserved font names and trademarks belong to their owners, none of whom endorses this",
            "data set.",
            "",
            "",
            *entries,
        ]
    )


def build(source: Path | None, out: Path) -> None:
    """Make the data set again: download, draw and split the fonts, and write the shards.

    The arguments are those of the command line, see `Glyphs`.
    """
    from data.making.indexing import moments_of  # here: it imports torch

    with tempfile.TemporaryDirectory() as folder:
        if source is None:
            download(FONTS, Path(folder))
        fonts = read_fonts(FONTS, source or Path(folder))
    sides = split_fonts(fonts)
    train, test = (list(make_samples(sides[split])) for split in ("train", "test"))
    shards = GLYPHS.write(out, train, test)
    write_index([replace(shard, moments=moments_of(shard, 1)) for shard in shards])
    write_text(out / "NOTICE", notice(fonts))


def main(argv: Sequence[str]) -> None:
    """Tell where the shards are, make them, or check them, as the command line says."""
    args = tyro.cli(Glyphs, description=Glyphs.__doc__, args=list(argv))
    if args.action == "build":
        build(args.source, args.out)
    elif args.action == "check":
        GLYPHS.check()
    else:
        tell((GLYPHS,))
