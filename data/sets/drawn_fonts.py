"""Fonts out of their packages on npm, drawn as glyphs, and which of them are of no use."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from einops import rearrange, reduce
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from data.sets.fonts import SCOPE
from data.sets.packages import Package, read_file, read_json, refuse_missing
from fcmae.run.terminal import say
from fcmae.run.waiting import counted

CHARACTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ23456789")
SIZE = 64  # side of an image in pixels
MARGIN = 6  # pixels around the longer side of a glyph
DRAWN = 256  # size of the font that is drawn and then shrunk, so that hinting does not matter
LEVELS = 16  # of grey, so that a shard has half of the bytes
LOOK = 16  # side in pixels of what two fonts are compared by
ALIKE = 0.14  # root mean square difference, on the scale 0 to 1, below which two fonts look alike
ABSENT = "\uffff"  # no font has this character
LICENCES = ("Apache-2.0", "OFL-1.1")


class UnusableFont(ValueError):
    """A font that the data set leaves out, and why."""


@dataclass(frozen=True, kw_only=True)
class Font:
    """A font, and its glyphs in the order of `CHARACTERS`, black on white."""

    package: Package
    family: str
    style: str
    """Fontsource's category: sans-serif, serif, monospace, display or handwriting."""
    licence: str
    copyright: str
    glyphs: UInt8[np.ndarray, "n 64 64"]

    @property
    def name(self) -> str:
        """The name of the package without its scope."""
        return self.package.name.removeprefix(SCOPE)


def draw(font: ImageFont.FreeTypeFont, character: str) -> UInt8[np.ndarray, "64 64"]:
    """Draw a character in black on white, centred, its longer side up to the margin.

    Without any ink the image is white.
    """
    left, top, right, bottom = font.getbbox(character)
    size = math.ceil(right) - math.floor(left), math.ceil(bottom) - math.floor(top)
    canvas = Image.new("L", (SIZE, SIZE))
    if min(size) > 0:
        drawn = Image.new("L", size)
        start = -math.floor(left), -math.floor(top)
        ImageDraw.Draw(drawn).text(start, character, fill=255, font=font)
        ink = drawn.crop(drawn.getbbox())
        scale = (SIZE - 2 * MARGIN) / max(ink.size)
        width, height = (max(1, round(scale * side)) for side in ink.size)
        ink = ink.resize((width, height), Image.Resampling.LANCZOS)
        canvas.paste(ink, ((SIZE - width) // 2, (SIZE - height) // 2))
    step = 255 // (LEVELS - 1)
    levels = np.rint(np.asarray(canvas, np.float32) / step)
    return (255 - step * levels).astype(np.uint8)


def draw_all(content: bytes) -> UInt8[np.ndarray, "n 64 64"]:
    """Draw the `CHARACTERS` of a font file, of any format that FreeType reads.

    Raises:
        UnusableFont: FreeType cannot read it, a glyph is missing or blank, or two are equal.
    """
    try:
        # the basic layout: that of raqm is not in every build of PIL
        font = ImageFont.truetype(io.BytesIO(content), DRAWN, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise UnusableFont(f"FreeType cannot read it: {error}") from error
    blank = draw(font, " ").tobytes()
    seen = {draw(font, ABSENT).tobytes(): "a missing character", blank: "a blank"}
    glyphs = []
    for character in CHARACTERS:
        glyph = draw(font, character)
        if (same := seen.setdefault(glyph.tobytes(), character)) != character:
            raise UnusableFont(f"its {character} is equal to {same}")
        glyphs.append(glyph)
    return np.stack(glyphs)


def copyright_of(attribution: str, licence: str) -> str:
    """The copyright line of a font.

    Args:
        attribution: what Fontsource's metadata say, perhaps of each file of the family in turn.
        licence: the text of the licence that comes with the package.

    Raises:
        UnusableFont: neither begins with one.
    """
    first = licence.strip().partition("\n\n")[0]
    for text in (attribution, first):
        line = " ".join(re.split(r"\s\S+\.ttf:", text)[0].split())
        line = re.split(r"\s+This Font Software is licensed", line)[0]
        if line.lower().startswith("copyright"):
            return line
    raise UnusableFont("its package has no copyright line")


def read_font(package: Package, folder: Path) -> Font:
    """Read a font, and draw its glyphs.

    Raises:
        UnusableFont: see `draw_all` and `copyright_of`; or its licence is none of `LICENCES`.
        ValueError: the package is damaged, or lacks a file.
    """
    tarball = folder / package.tarball
    about = read_json(tarball, "metadata.json")
    licence = read_json(tarball, "package.json")["license"]
    if licence not in LICENCES:
        raise UnusableFont(f"its licence is {licence}, not {' or '.join(LICENCES)}")
    text = read_file(tarball, "LICENSE").decode(errors="replace").replace("\r\n", "\n")
    file = f"files/{package.name.removeprefix(SCOPE)}-latin-400-normal.woff"
    return Font(
        package=package,
        family=about["family"],
        style=about["category"],
        licence=licence,
        copyright=copyright_of(about["license"]["attribution"], text),
        glyphs=draw_all(read_file(tarball, file)),
    )


def read_fonts(packages: Sequence[Package], folder: Path) -> list[Font]:
    """Read the fonts that `npm pack` wrote to `folder`, but for those that are of no use.

    Those are named, with the reason, as is one that looks like a font before it.

    Raises:
        FileNotFoundError: a tarball is missing.
        ValueError: a package is damaged.
    """
    refuse_missing(packages, folder)
    fonts: list[Font] = []
    looks = np.empty((len(packages), len(CHARACTERS) * LOOK**2), np.float32)
    for package in counted(packages, "drawing fonts", len(packages), "fonts"):
        try:
            font = read_font(package, folder)
            look = look_of(font.glyphs)
            refuse_alike(look, fonts, looks)
        except UnusableFont as why:
            say(f"left out: {package.name}, {why}")
            continue
        looks[len(fonts)] = look
        fonts.append(font)
    return fonts


def look_of(glyphs: UInt8[np.ndarray, "n 64 64"]) -> Float32[np.ndarray, " d"]:
    """All glyphs of a font in low resolution, as one vector on the scale 0 to 1."""
    side = SIZE // LOOK
    small = reduce(glyphs / np.float32(255), "n (h p) (w q) -> n h w", "mean", p=side, q=side)
    return rearrange(small, "n h w -> (n h w)")


def refuse_alike(
    look: Float32[np.ndarray, " d"], fonts: Sequence[Font], looks: Float32[np.ndarray, "n d"]
) -> None:
    """Check that a font looks like none of those before it.

    Args:
        look: of the font, see `look_of`.
        fonts: those before it.
        looks: of these, in the first rows.

    Raises:
        UnusableFont: it looks like one of them.
    """
    differences = np.sqrt(np.square(looks[: len(fonts)] - look).mean(1))
    if len(fonts) and differences.min() < ALIKE:
        raise UnusableFont(f"which looks like {fonts[int(differences.argmin())].package.name}")
