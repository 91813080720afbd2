"""The embedded data set: rendered emoji artwork, 72 px, labelled by the nine Unicode groups.

`python -m data.demo` tells where the shards are: in `data/demo/` of a checkout, not in the wheel.
`python -m data.demo build` makes them again, from four icon sets on npm. `python -m data.demo
check` compares them with their hashes and counts the images. The file `data/demo/NOTICE` lists the
sources, the licences and what was changed.

The same emoji is drawn in every style, and in variants of gender, direction, colour and so on. All
of these form one group, and a whole group is either in train or in test: a random split would leak.
"""

import gzip
import io
import re
import shutil
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from PIL import Image

from data.shards.index import INDEX
from data.shards.reading import open_shards, read_sample
from data.shards.tar import members_of, reader
from data.shards.writing import write_shards
from fcmae.run.files import text_sha256, write_json
from fcmae.run.json_files import parse_json
from fcmae.run.tables import print_table
from fcmae.run.terminal import say
from fcmae.run.waiting import counted, waiting

HERE = Path(__file__).parents[1] / "demo"
TRAIN = f"{HERE}/train-{{000000..000003}}.tar.gz"
TEST = f"{HERE}/test-000000.tar.gz"
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
SIZE = 72  # side of an image in pixels
TRAIN_SHARDS = 4
TEST_SHARE = 0.2  # share of the groups of a class

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

Split = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The embedded data set: 6,050 rendered emoji of 72 px, in nine classes."""

    action: Annotated[Literal["where", "build", "check"], tyro.conf.Positional] = "where"
    """where: tell the paths of the shards. build: make them, from four icon sets on npm. check:
    compare them with their hashes, and count the images of each class."""
    source: Path | None = None
    """For build: a folder with the tarballs that `npm pack` writes; by default npm downloads them.
    """
    out: Path = HERE
    """For build: the folder for the shards. It replaces those of an earlier build."""


@dataclass(frozen=True)
class Style:
    """An icon set: its name in the keys of samples, and the npm package with its version."""

    name: str
    package: str
    version: str

    @property
    def tarball(self) -> str:
        """The name of the file that `npm pack` writes for the package."""
        return f"{self.package.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


STYLES = (
    Style("noto", "@iconify-json/noto", "1.2.9"),
    Style("noto-v1", "@iconify-json/noto-v1", "1.2.5"),
    Style("fluent", "@iconify-json/fluent-emoji", "1.2.7"),
    Style("fluent-flat", "@iconify-json/fluent-emoji-flat", "1.2.6"),
)


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
    """The groups for the test: of each class the share `TEST_SHARE` with the smallest SHA-256.

    A group with names in two classes counts for the class of its first name, so that all of it is
    on one side.
    """
    home: dict[str, str] = {}
    for name in sorted(category):
        home.setdefault(group_of(name), category[name])
    by_class: dict[str, list[str]] = defaultdict(list)
    for group in sorted(home, key=text_sha256):
        by_class[home[group]].append(group)
    return {
        group for groups in by_class.values() for group in groups[: round(TEST_SHARE * len(groups))]
    }


def read_source(folder: Path) -> Source:
    """Read the four tarballs that `npm pack` wrote to `folder`.

    Raises:
        FileNotFoundError: A tarball is missing.
        ValueError: The categories are not `CLASSES`.
    """
    for style in STYLES:
        if not (folder / style.tarball).is_file():
            raise FileNotFoundError(
                f"{folder / style.tarball} does not exist; make it there with "
                f"`npm pack {style.package}@{style.version}`"
            )
    names_of = read_json(folder / STYLES[0].tarball, "metadata.json")["categories"]
    if tuple(sorted(names_of)) != CLASSES:
        raise ValueError(
            f"{STYLES[0].package} has the categories {sorted(names_of)}, not {CLASSES}"
        )
    return Source(
        icons={style.name: read_json(folder / style.tarball, "icons.json") for style in STYLES},
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
            download(Path(folder))
        icon_sets = read_source(source or Path(folder))
    splits: dict[Split, list[dict[str, Any]]] = {}
    for split in ("train", "test"):
        icons = list_icons(icon_sets, split)
        say(f"rendering {len(icons)} {split} images")
        samples = make_samples(icon_sets, icons)
        splits[split] = list(counted(samples, "rendering images", len(icons), "images"))
    for old in (*out.glob("train-*.tar.gz"), *out.glob("test-*.tar.gz"), out / INDEX):
        old.unlink(missing_ok=True)
    train = splits["train"]
    test = splits["test"]
    write_shards(train, out, "train", -(-len(train) // TRAIN_SHARDS), compress=True)
    write_shards(test, out, "test", len(test), compress=True)
    write_json(out / "classes.json", CLASSES)
    say(f"{len(train)} train and {len(test)} test images in {out}")


def check() -> None:
    """Compare the shards with the hashes in their index, and count the images of each class."""
    counts: dict[str, Counter[int]] = {}
    for split, spec in (("train", TRAIN), ("test", TEST)):
        shards = open_shards(spec)
        places = [(shard, i) for shard in shards for i in range(shard.samples)]
        reading = counted(places, f"reading {split} samples", len(places), "samples")
        counts[split] = Counter(int(read_sample(*place)["cls"]) for place in reading)
    sides = (counts["train"], counts["test"])
    rows = [(name, *(side[label] for side in sides)) for label, name in enumerate(CLASSES)]
    rows.append(("all", *(side.total() for side in sides)))
    print_table("", ["class", "train", "test"], rows)


def download(folder: Path) -> None:
    """Download the four tarballs to a folder, with npm.

    Raises:
        FileNotFoundError: npm is not installed.
        ChildProcessError: npm failed.
    """
    packages = [f"{style.package}@{style.version}" for style in STYLES]
    by_hand = f"run `npm pack {' '.join(packages)}` where that works and give the folder: --source"
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(f"npm is not installed; install Node.js, or {by_hand}")
    command = [npm, "pack", "--pack-destination", str(folder), *packages]
    with waiting("downloading icons"):
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        message = " ".join(result.stderr.split())
        raise ChildProcessError(f"npm pack failed; {by_hand}; npm said: {message}")


def read_json(tarball: Path, member: str) -> Any:
    """Read a JSON file out of the tarball of a package.

    Raises:
        ValueError: The package lacks it, or is damaged.
    """
    with gzip.open(tarball) as file:
        read = reader(file)
        for found in members_of(read, None):
            if found.name == f"package/{member}":
                return parse_json(read(found.start, found.size), f"{tarball}: {member}", dict)
    raise ValueError(f"{tarball} has no package/{member}: download the package again")


def encode_png(image: Image.Image) -> bytes:
    """Encode an image without loss. With at most 256 colours, a palette halves the size."""
    pixels = np.asarray(image)
    colours, index = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    if len(colours) <= 256:
        image = Image.fromarray(index.reshape(pixels.shape[:2]).astype(np.uint8))
        image.putpalette(colours.tobytes())
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


def where() -> None:
    """Print the patterns of the shards, for --data.train and --data.test.

    Raises:
        FileNotFoundError: this is an installed wheel, which has none.
    """
    if not Path(TEST).is_file():
        raise FileNotFoundError(
            "the embedded images come with a checkout, not with the wheel: fcmae demo build --out"
            " datasets/demo makes them, with npm and pip install 'fcmae[demo]'"
        )
    say(f"--data.train '{TRAIN}'", f"--data.test '{TEST}'")


def main(argv: Sequence[str]) -> None:
    """Tell where the shards are, make them, or check them, as the command line says."""
    args = tyro.cli(Demo, description=Demo.__doc__, args=list(argv))
    if args.action == "build":
        build(args.source, args.out)
    elif args.action == "check":
        check()
    else:
        where()
