"""The embedded data set: rendered emoji artwork, 72 px, labelled by the nine Unicode groups.

`fcmae demo` tells where the shards of both embedded data sets are, these and the glyphs
(`data.sets.glyphs`): in `data/demo/` and `data/glyphs/` of a checkout, not in the wheel.
`fcmae demo build` makes them again, from four icon sets on npm. `fcmae demo check` compares them
with their hashes and counts the images. The file `data/demo/NOTICE` lists the sources, the licences
and what was changed.

The same emoji is drawn in every style, and in variants of gender, direction, colour and so on. All
of these form one group, and a whole group is either in train or in test: a random split would leak.
"""

import io
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from PIL import Image

from data.sets import glyphs
from data.sets.embedded import Embedded, Split, encode_png, held_out, tell
from data.sets.packages import Package, download, read_json, refuse_missing
from fcmae.run.files import text_sha256
from fcmae.run.terminal import say
from fcmae.run.waiting import counted

CLASSES = (
    "Activities",
    "Animals & Nature",
    "Flags",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)
EMOJI = Embedded(
    name="demo",
    about="drawings of emoji, in nine classes",
    needs="npm and pip install 'fcmae[demo]'",
    classes=CLASSES,
    train_shards=4,
)
HERE = EMOJI.folder
TRAIN = EMOJI.train
TEST = EMOJI.test
SIZE = 72  # side of an image in pixels

# The words of a name that distinguish variants of one motif.
WORDS = """
    man men woman women person people boy girl child adult old older mrs mx santa
    bald beard blond curly hair
    left right up down leftwards rightwards upwards downwards facing tilted oncoming
    horizontal vertical open closed raised lowered large medium small high low light dark
    red orange yellow green blue purple brown pink black white grey
    1st 2nd 3rd dollar euro pound yen
"""
VARIANTS = frozenset(WORDS.split())
# Motifs whose variants have other names, as a pattern of the whole name -> the group.
MOTIFS = {
    ".*-(oclock|thirty)": "clock-face",
    "keycap.*": "keycap",
    "family.*": "family",
    ".*moon(-face)?": "moon",
    "globe-showing-.*": "globe",
    "mermaid|merman": "merperson",
    "princess": "prince",
}

# the icon set of each style
STYLES = {
    "noto": Package("@iconify-json/noto", "1.2.9"),
    "noto-v1": Package("@iconify-json/noto-v1", "1.2.5"),
    "fluent": Package("@iconify-json/fluent-emoji", "1.2.7"),
    "fluent-flat": Package("@iconify-json/fluent-emoji-flat", "1.2.6"),
}


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The embedded data set: 6,050 rendered emoji of 72 px, in nine classes."""

    action: Annotated[Literal["where", "build", "check"], tyro.conf.Positional] = "where"
    """where: tell the paths of the shards, and of those of the glyphs. build: make them, from four
    icon sets on npm. check: compare them with their hashes, and count the images of each class."""
    source: Path | None = None
    """For build: a folder with the tarballs that `npm pack` writes; by default npm downloads them.
    """
    out: Path = HERE
    """For build: the folder for the shards. It replaces those of an earlier build."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the packages contain: the icon set of each style, and the category of each name."""

    icons: Mapping[str, Mapping[str, Any]]
    category: Mapping[str, str]


def group_of(name: str) -> str:
    """The motif of an icon, which is its name without the words that distinguish variants."""
    for pattern, group in MOTIFS.items():
        if re.fullmatch(pattern, name):
            return group
    return "-".join(token for token in name.split("-") if token not in VARIANTS) or "person"


def held_out_groups(category: Mapping[str, str]) -> set[str]:
    """The groups for the test, see `data.sets.embedded`, in the same share of each class.

    A group with names in two classes counts for the class of its first name, so that all of it is
    on one side.
    """
    home: dict[str, str] = {}
    for name in sorted(category):
        home.setdefault(group_of(name), category[name])
    by_class: dict[str, list[str]] = defaultdict(list)
    for group, name in home.items():
        by_class[name].append(group)
    return {group for groups in by_class.values() for group in held_out(groups)}


def read_source(folder: Path) -> Source:
    """Read the four tarballs that `npm pack` wrote to `folder`.

    Raises:
        FileNotFoundError: A tarball is missing.
        ValueError: The categories are not `CLASSES`.
    """
    refuse_missing(tuple(STYLES.values()), folder)
    noto = STYLES["noto"]
    names_of = read_json(folder / noto.tarball, "metadata.json")["categories"]
    if tuple(sorted(names_of)) != CLASSES:
        raise ValueError(f"{noto.name} has the categories {sorted(names_of)}, not {CLASSES}")
    return Source(
        icons={
            style: read_json(folder / package.tarball, "icons.json")
            for style, package in STYLES.items()
        },
        category={
            name: category
            for category, names in names_of.items()
            for name in names
            if "skin-tone" not in name
        },
    )


def list_icons(source: Source, split: Split) -> list[tuple[str, str]]:
    """List the `(style, name)` of every image of a split, in the order of its shards.

    The order is that of the SHA-256 of the keys, so shards mix classes and styles. Aliases, which
    are the same picture or a mirrored one, are left out, as are icons that their set hides.
    """
    held_out = held_out_groups(source.category)
    icons = [
        (style, name)
        for style, icon_set in source.icons.items()
        for name, icon in icon_set["icons"].items()
        if name in source.category and not icon.get("hidden", False)
        if (group_of(name) in held_out) == (split == "test")
    ]
    return sorted(icons, key=lambda icon: text_sha256("/".join(icon)))


def make_samples(source: Source, icons: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Render `(style, name)` pairs, and yield samples with the members png, cls and json."""
    for style, name in icons:
        category = source.category[name]
        yield {
            "__key__": f"{style}/{name}",
            "png": encode_png(render(source.icons[style], name)),
            "cls": CLASSES.index(category),
            "json": {"name": name, "style": style, "group": group_of(name), "category": category},
        }


def render(icon_set: Mapping[str, Any], name: str) -> Image.Image:
    """Render one icon of an Iconify set on white, in RGB and `SIZE` x `SIZE` pixels.

    Raises:
        ModuleNotFoundError: The extra `demo` is not installed.
    """
    try:
        from resvg_py import svg_to_bytes
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "rendering needs resvg-py: pip install fcmae[demo] (in a checkout: -e .[demo])"
        ) from error
    icon = icon_set["icons"][name]
    # in Iconify, each value of the box is that of the icon, or of the set, or this default
    defaults = {"left": 0, "top": 0, "width": 16, "height": 16}
    box = (str(icon.get(side, icon_set.get(side, value))) for side, value in defaults.items())
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{SIZE}" height="{SIZE}" viewBox="{" ".join(box)}">{icon["body"]}</svg>'
    )
    png = svg_to_bytes(svg_string=svg, background="white", skip_system_fonts=True)
    return Image.open(io.BytesIO(png)).convert("RGB")


def build(source: Path | None, out: Path) -> None:
    """Make the data set again: download, render and split the icons, and write the shards.

    The arguments are those of the command line, see `Demo`.
    """
    with tempfile.TemporaryDirectory() as folder:
        if source is None:
            download(tuple(STYLES.values()), Path(folder))
        icon_sets = read_source(source or Path(folder))
    splits: dict[Split, list[dict[str, Any]]] = {}
    for split in ("train", "test"):
        icons = list_icons(icon_sets, split)
        say(f"rendering {len(icons)} {split} images")
        samples = make_samples(icon_sets, icons)
        splits[split] = list(counted(samples, "rendering images", len(icons), "images"))
    EMOJI.write(out, splits["train"], splits["test"])


def main(argv: Sequence[str]) -> None:
    """Tell where the shards are, make them, or check them, as the command line says."""
    args = tyro.cli(Demo, description=Demo.__doc__, args=list(argv))
    if args.action == "build":
        build(args.source, args.out)
    elif args.action == "check":
        EMOJI.check()
    else:
        tell((EMOJI, glyphs.GLYPHS))
