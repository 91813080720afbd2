"""Pictures for people: wide enough, each with its label, and the caption of what they are of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from fcmae.sheet import as_rgb, fitting, save_views, sheet, to_image


def drawn(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.parametrize(("images", "side"), [(8, 32), (3, 8), (1, 224), (8, 224)])
def test_a_picture_is_at_least_512_pixels_wide_and_shows_each_pixel(
    images: int, side: int, tmp_path: Path
) -> None:
    views = torch.rand(images, 2, 3, side, side, generator=torch.Generator().manual_seed(0))
    save_views(views, tmp_path / "a.png", ("original", "visible"))
    pixels = drawn(tmp_path / "a.png")
    height, width, _ = pixels.shape
    assert width >= 512
    beside, below = (images, 2) if images >= 4 else (2, images)
    factor = (width - 4) // beside - 4
    assert factor % side == 0
    factor //= side
    assert height > below * factor * side
    shown = as_rgb(views)[0, 0].permute(1, 2, 0).numpy()
    enlarged = shown.repeat(factor, 0).repeat(factor, 1)
    tops = [
        top for top in range(height) if (pixels[top, 4 : 4 + factor * side] == enlarged[0]).all()
    ]
    assert (pixels[tops[0] : tops[0] + factor * side, 4 : 4 + factor * side] == enlarged).all()


def test_labels_and_caption_are_written_where_there_is_room() -> None:
    white = [[Image.new("RGB", (40, 40), "white") for _ in range(4)] for _ in range(2)]
    bare = np.asarray(sheet(white, [[""] * 4] * 2))
    assert (bare == 255).all()
    labels = [["original", "", "", ""], ["a", "b", "c", "d"]]
    labelled = np.asarray(sheet(white, labels, "run, step 3"))
    dark = labelled.min(axis=2) < 128
    lines = np.flatnonzero(
        np.diff(np.r_[0, dark.max(axis=1), 0].astype(int)) == 1
    )  # where text begins
    assert len(lines) >= 3
    assert labelled.shape[0] > bare.shape[0]
    second = dark[labelled.shape[0] - 40 * 4 :]
    assert not second.any()  # the pictures themselves


def test_long_texts_are_shortened_in_their_middle_and_stay_in_one_line() -> None:
    font = ImageFont.load_default(16)
    assert fitting("short", font, 500) == "short"
    short = fitting("runs/" + "a" * 300 + ", step 12", font, 300)
    assert font.getlength(short) <= 300
    assert short.startswith("runs/a")
    assert short.endswith("a, step 12")
    assert fitting("two\nlines", font, 500) == r"two\nlines"


def test_other_numbers_of_channels_are_shown_as_colours() -> None:
    views = torch.rand(2, 5, 4, 4)
    assert torch.equal(as_rgb(views), (255 * views[:, :3]).round().byte())
    grey = as_rgb(views[:, :2])
    assert torch.equal(grey, (255 * views[:, :1]).round().byte().expand(-1, 3, -1, -1))
    assert as_rgb(torch.tensor([-1.0, 2.0]).view(2, 1, 1)).flatten().tolist() == [0, 0, 0]
    assert to_image(grey[0]).size == (4, 4)
