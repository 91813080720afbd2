"""Sheets of pictures for people: enlarged until they can be looked at, each labelled, a caption."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fcmae.run.files import replacing
from fcmae.run.terminal import visible

WIDTH = 512  # pixels, at least
GAP = 4  # pixels between pictures, and around them
INK, PAPER = "#222222", "#ffffff"
FEW = 4  # images: so many and more stand beside each other, fewer below each other


def as_rgb(views: Float[Tensor, "*b c h w"]) -> UInt8[Tensor, "*b 3 h w"]:
    """Views with values from 0 to 1 as pixels: their first three channels, or the first as grey."""
    shown = views[..., :3, :, :]
    if shown.shape[-3] < 3:
        shown = shown[..., :1, :, :].expand(*shown.shape[:-3], 3, -1, -1)
    return (255 * shown.clamp(0, 1)).round().byte()


def to_image(pixels: UInt8[Tensor, "3 h w"]) -> Image.Image:
    """Pixels as an image of Pillow."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def sheet(
    rows: Sequence[Sequence[Image.Image]], labels: Sequence[Sequence[str]], caption: str = ""
) -> Image.Image:
    """Draw rows of pictures of one size, at least 512 pixels wide, with a label above each.

    Small pictures are enlarged by a whole factor, so that their pixels can be told apart.

    Args:
        rows: the pictures, as many in each row.
        labels: a label for each; where it is empty, that on its left has the room. Rows without
            labels get no line of text.
        caption: of the sheet, above all; empty for none.
    """
    columns = len(rows[0])
    width, height = rows[0][0].size
    factor = max(1, -(-(WIDTH - GAP * (columns + 1)) // (columns * width)))
    width, height = factor * width, factor * height
    whole = columns * (width + GAP) + GAP
    size = max(15, whole // 50)
    font = ImageFont.load_default(size)
    text = size + size // 3 + GAP  # a line's height, with those letters that go below it
    lines = [text if any(line) else GAP for line in labels]
    top = text if caption else 0
    page = Image.new("RGB", (whole, top + sum(lines) + len(rows) * height + GAP), PAPER)
    draw = ImageDraw.Draw(page)

    def write(left: int, above: int, words: str, room: int) -> None:
        draw.text((left, above + GAP // 2), fitting(words, font, room), fill=INK, font=font)

    write(GAP, 0, caption, whole - 2 * GAP)
    for row, names, line in zip(rows, labels, lines, strict=True):
        for place, (picture, name) in enumerate(zip(row, names, strict=True)):
            left = GAP + place * (width + GAP)
            room = width if any(names[place + 1 :]) else whole - left - GAP
            write(left, top, name, room)
            enlarged = picture.resize((width, height), Image.Resampling.NEAREST)
            page.paste(enlarged, (left, top + line))
        top += line + height
    return page


def fitting(words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> str:
    """A text in one line, shortened in its middle until it is at most `room` pixels wide."""
    words = visible(words)
    kept = len(words)
    short = words
    while kept > 1 and font.getlength(short) > room:
        kept -= 1
        short = f"{words[: kept - kept // 2]}…{words[len(words) - kept // 2 :]}"
    return short


def save_views(
    views: Float[Tensor, "b k c h w"], path: Path, labels: Sequence[str], caption: str = ""
) -> None:
    """Write views as a PNG file: a row for each view, or for each image if there are but a few.

    Args:
        views: k views of each image, with values from 0 to 1; see `as_rgb`.
        path: the file; its directory is made if it does not exist.
        labels: what the k views are called.
        caption: of the picture.

    Raises:
        OSError: the file cannot be written.
    """
    rows = [[to_image(view) for view in image] for image in as_rgb(views).cpu()]
    named = [list(labels), *([""] * len(labels) for _ in rows[1:])]
    if len(rows) >= FEW:
        rows = [list(row) for row in zip(*rows, strict=True)]
        named = [[label, *[""] * (len(views) - 1)] for label in labels]
    with replacing(path) as partial:
        sheet(rows, named, caption).save(partial, "PNG")
