"""Make the two pictures of README.md, out of a pretraining run on the embedded drawings.

    fcmae pretrain demo --model.image_size 56 --run.dir runs/pictures
    python scripts/pictures.py runs/pictures

`idea.png` shows how one drawing goes through the model, `reconstructions.png` what it makes of
several, none of which it was trained on. Images of 56 px have 7 x 7 patches of 8 px, as those of
224 px have patches of 32 px.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fcmae.run.files import replacing
from fcmae.run.program import run_program
from fcmae.run.ranges import Seed, checked
from fcmae.run.terminal import say

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from fcmae.api import Reconstruction

VIEWS = ("original", "visible", "prediction", "pasted")
INK, TOKEN = "#1f2328", "#8250df"
DPI = 200


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Make the pictures of README.md out of a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """A pretraining run whose images have 49 patches."""
    data: str = "data/demo/test-000000.tar.gz"
    """Shards with the drawings."""
    keys: tuple[str, ...] = ()
    """Keys of the drawings, of which the first goes through the model. None: the first six."""
    seed: Seed = 0
    """Seed of the choice of patches of the first drawing; that of the next is one higher."""
    out: Path = Path("scripts/recipes")
    """The folder to write to."""


def drawings(data: str, keys: Sequence[str]) -> list[Image]:
    """Read drawings out of shards, in the order of the keys; the first six if there are none.

    Raises:
        OSError: a shard cannot be read.
        ValueError: a shard is damaged, or has no such key.
    """
    from PIL.Image import open as read_image

    from data.shards.reading import open_shards, read_sample

    found: dict[str, Image] = {}
    for shard in open_shards(data):
        for i in range(shard.samples):
            sample = read_sample(shard, i)
            key, content = sample["__key__"], sample["png"]
            assert isinstance(key, str)
            assert isinstance(content, bytes)
            if (key in keys) if keys else len(found) < 6:
                found[key] = read_image(io.BytesIO(content))
    missing = set(keys) - set(found)
    if missing:
        raise ValueError(f"{data} has no drawing {sorted(missing)[0]!r}: take keys that it has")
    return [found[key] for key in keys or found]


def show(panel: Axes, picture: Image | np.ndarray) -> None:
    """Show a picture pixel by pixel, without axes."""
    panel.imshow(picture, interpolation="nearest", vmin=0, vmax=255)
    panel.set_axis_off()


def draw_reconstructions(made: Sequence[Reconstruction]) -> Figure:
    """Draw two reconstructions a row, each as four pictures from left to right."""
    from matplotlib.figure import Figure

    rows = -(-len(made) // 2)
    figure = Figure(figsize=(9.4, 0.3 + 1.15 * rows), dpi=DPI, facecolor="white")
    panels = figure.subplots(rows, 9, squeeze=False, width_ratios=[1] * 4 + [0.15] + [1] * 4)
    for panel in panels.flat:
        panel.set_axis_off()
    for place, each in enumerate(made):
        row, side = divmod(place, 2)
        for column, view in enumerate(VIEWS):
            panel = panels[row, 5 * side + column]
            show(panel, getattr(each, view))
            if row == 0:
                panel.set_title(view, fontsize=10, color=INK, pad=4)
    top = 1 - 0.3 / figure.get_figheight()
    figure.subplots_adjust(0.005, 0.005, 0.995, top, wspace=0.04, hspace=0.04)
    return figure


def draw_idea(made: Reconstruction, visible: Sequence[bool]) -> Figure:
    """Draw the way of an image through the model, in five steps.

    Args:
        made: the reconstruction of an image.
        visible: True where the encoder sees the patch, in raster order.
    """
    from matplotlib.figure import Figure

    side, seen = round(len(visible) ** 0.5), sum(visible)
    figure = Figure(figsize=(10.6, 2.45), dpi=DPI, facecolor="white")
    panels = figure.subplots(1, 5)
    captions = (
        f"an image,\n{side} x {side} = {len(visible)} patches",
        f"{len(visible) - seen} of them are hidden\n(60 %)",
        f"the encoder gets the other {seen},\nas one dense tensor",
        "the decoder puts them back,\nmask tokens (m) between them",
        "and predicts the pixels\nof the hidden patches",
    )
    pasted = (made.original, made.visible, None, None, made.pasted)
    for panel, caption, picture in zip(panels, captions, pasted, strict=True):
        panel.set_axis_off()
        panel.set_title(caption, fontsize=9.5, color=INK, y=-0.04, va="top")
        if picture is not None:
            show(panel, picture)
            cut(panel, side, picture.width)
    draw_dense(panels[2], patches_of(made, visible))
    draw_tokens(panels[3], made, visible)
    figure.subplots_adjust(0.005, 0.16, 0.995, 0.985, wspace=0.2)
    for left, right in pairwise(panels):
        place = (left.get_position().x1 + right.get_position().x0) / 2
        figure.text(place, 0.585, "→", fontsize=18, color=INK, ha="center", va="center")
    return figure


def patches_of(made: Reconstruction, visible: Sequence[bool]) -> list[np.ndarray]:
    """Cut the visible patches out of an image, in raster order."""
    import numpy as np

    pixels = np.asarray(made.original)
    side = round(len(visible) ** 0.5)
    p = len(pixels) // side
    places = [divmod(i, side) for i, seen in enumerate(visible) if seen]
    return [pixels[p * y : p * (y + 1), p * x : p * (x + 1)] for y, x in places]


def cut(panel: Axes, side: int, width: int) -> None:
    """Draw the lines between the patches of an image that is `width` pixels wide."""
    for place in range(side + 1):
        at = place * width / side - 0.5
        panel.axhline(at, color="white", linewidth=1)
        panel.axvline(at, color="white", linewidth=1)


def draw_dense(panel: Axes, patches: Sequence[np.ndarray]) -> None:
    """Draw patches side by side, in a frame."""
    from matplotlib.patches import Rectangle

    columns = 5
    rows = -(-len(patches) // columns)
    for place, patch in enumerate(patches):
        y, x = divmod(place, columns)
        panel.imshow(patch, interpolation="nearest", extent=(x, x + 1, y + 1, y))
        panel.add_patch(Rectangle((x, y), 1, 1, fill=False, edgecolor="white", linewidth=1))
    outline = [(0, 0), (columns, 0), (columns, rows - 1), (len(patches) % columns, rows - 1)]
    outline += [(len(patches) % columns, rows), (0, rows), (0, 0)]
    panel.plot(*zip(*outline, strict=True), color=INK, linewidth=2)
    # at the scale of the images beside it
    panel.set(xlim=(-1, columns + 1), ylim=((rows + 7) / 2, (rows - 7) / 2), aspect="equal")


def draw_tokens(panel: Axes, made: Reconstruction, visible: Sequence[bool]) -> None:
    """Draw visible patches at their places, and a mask token at each place between them."""
    from matplotlib.patches import Rectangle

    side = round(len(visible) ** 0.5)
    p = made.visible.width / side
    show(panel, made.visible)
    for place, seen in enumerate(visible):
        if not seen:
            y, x = (p * at - 0.5 for at in divmod(place, side))
            panel.add_patch(Rectangle((x, y), p, p, color=TOKEN))
            panel.text(
                x + p / 2, y + p / 2, "m", color="white", fontsize=9, ha="center", va="center"
            )
    cut(panel, side, made.visible.width)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as partial:
        figure.savefig(partial, format="png", pil_kwargs={"optimize": True})
    say(f"{path}, {path.stat().st_size / 1000:.0f} kB")


def main(argv: Sequence[str]) -> None:
    """Make the pictures.

    Raises:
        OSError: the run or a shard cannot be read, or a picture cannot be written.
        ValueError: the run has no 49 patches, or the shards have no such drawing.
    """
    args = checked(tyro.cli(Pictures, description=__doc__, args=list(argv)))
    import torch

    import fcmae
    from fcmae.masking import draw_visible
    from fcmae.weights.autoencoder import load_autoencoder

    model, _ = load_autoencoder(args.run)
    if model.n != 49:
        raise ValueError(f"{args.run} has images of {model.n} patches; the idea shows 49 of them")
    generator = torch.Generator().manual_seed(args.seed)
    (visible,) = draw_visible(1, model.n, model.ratio, generator=generator).tolist()
    pictures = drawings(args.data, args.keys)
    seeds = range(args.seed, args.seed + len(pictures))
    made = [
        fcmae.reconstruct(args.run, picture, seed=seed)
        for picture, seed in zip(pictures, seeds, strict=True)
    ]
    save(draw_idea(made[0], visible), args.out / "idea.png")
    save(draw_reconstructions(made), args.out / "reconstructions.png")


if __name__ == "__main__":
    run_program(main)
