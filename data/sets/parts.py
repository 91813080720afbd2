"""Pictures of parts: drawings that come back at any place, size and angle, grey, 64 px.

    fcmae parts datasets/parts [--seed 0]

Nobody photographed or labelled these pictures. Each shows one of a few drawings of the embedded
emoji on a soft background: at any place, larger or smaller, turned a little, mirrored or not,
brighter or darker. Which drawing it is, is the class. The pictures of a drawing have nothing else
in common, so that what tells classes apart has to be found wherever it is, as before the camera of
a line that makes a few kinds of parts. They say nothing about photographs.

All drawings are in train and in test, and no picture is in both. Everything is a function of the
seed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import UInt8
from PIL import Image

from data.sets import demo
from data.sets.embedded import Split, encode_png
from data.sets.scenes import Drawing, read_drawings
from data.shards.writing import refuse_existing, write_shards
from fcmae.run.files import write_json
from fcmae.run.ranges import Count, Seed, checked
from fcmae.run.terminal import say
from fcmae.run.waiting import counted

SIZE = 64  # side of a picture in pixels
SIDES = (28, 52)  # longer side of a drawing in pixels: from, to
TURN = 25  # degrees to each side
GROUND = (60, 200)  # mean grey of a background: from, to
CELLS = 4  # side in cells of the noise that makes a background
CONTRAST = 0.7  # of this noise
GAINS = (0.6, 1.1)  # of a drawing's greys: from, to
OFFSETS = (-20, 40)  # likewise, what is added to them
SHARD = 1000  # pictures in a shard


@dataclass(frozen=True, kw_only=True)
class PartsConfig:
    """Write train and test shards of pictures of recurring drawings."""

    out: Annotated[Path, tyro.conf.Positional]
    """The folder for the shards."""
    seed: Seed = 0
    """The seed of everything that is random: which drawings there are, and their pictures."""
    classes: Count = 34
    """Number of drawings, which are the classes."""
    train: Count = 6800
    """Number of pictures in the train shards, to learn from."""
    test: Count = 1700
    """Number of pictures in the test shards, to measure with."""


def choose(drawings: Sequence[Drawing], count: int, seed: int) -> list[Drawing]:
    """Choose drawings, one of a motif, and cut off what is transparent around them.

    Raises:
        ValueError: there are not so many motifs.
    """
    motifs = {drawing.group: drawing for drawing in reversed(drawings)}
    if count > len(motifs):
        raise ValueError(f"classes={count} is more than the {len(motifs)} motifs that are there")
    names = np.random.default_rng(seed).permutation(sorted(motifs))[:count]
    chosen = [motifs[name] for name in names.tolist()]
    return [
        Drawing(d.key, d.group, label, d.image.crop(d.image.getchannel("A").getbbox()))
        for label, d in enumerate(chosen)
    ]


def pictures(
    split: Split, drawings: Sequence[Drawing], count: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield pictures, of each drawing in turn, as samples with the members png, cls and json."""
    for i in range(count):
        drawing = drawings[i % len(drawings)]
        rng = np.random.default_rng([seed, split == "test", i])
        yield {
            "__key__": f"{split}-{i:05d}",
            "png": encode_png(picture(drawing, rng)),
            "cls": drawing.label,
            "json": {"drawing": drawing.key},
        }


def picture(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """Draw a picture: the drawing as it happens to lie there, on a soft background."""
    part = drawing.image.convert("LA")
    scale = rng.uniform(*SIDES) / max(part.size)
    width, height = (max(1, round(side * scale)) for side in part.size)
    part = part.resize((width, height), Image.Resampling.BOX)
    if rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    part = part.rotate(rng.uniform(-TURN, TURN), Image.Resampling.BILINEAR, expand=True)
    greys, opaque = part.split()
    gain, offset = rng.uniform(*GAINS), rng.uniform(*OFFSETS)
    greys = Image.fromarray(bounded(gain * np.asarray(greys, float) + offset))
    image = background(rng)
    image.paste(greys, place(part.size, rng), opaque)
    return image


def place(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """The corner of a part of this size: all of it is inside, or it covers the picture's side."""
    room = [SIZE - side for side in size]
    left, top = (int(rng.integers(min(0, r), max(0, r), endpoint=True)) for r in room)
    return left, top


def background(rng: np.random.Generator) -> Image.Image:
    """Make a background of a few soft spots."""
    noise = Image.fromarray(rng.integers(0, 256, (CELLS, CELLS), np.uint8))
    spots = np.asarray(noise.resize((SIZE, SIZE), Image.Resampling.BICUBIC), float) - 128
    return Image.fromarray(bounded(rng.uniform(*GROUND) + CONTRAST * spots))


def bounded(values: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    """Round to greys of 8 bits."""
    return values.round().clip(0, 255).astype(np.uint8)


def build(config: PartsConfig) -> None:
    """Write the shards and classes.json, and print what they hold.

    Raises:
        FileExistsError: The folder has such shards already.
        ValueError: There are too few motifs.
    """
    for split in ("train", "test"):
        refuse_existing(config.out, split)
    drawings = choose(read_drawings(demo.TRAIN), config.classes, config.seed)
    plan: tuple[tuple[Split, int], ...] = (("train", config.train), ("test", config.test))
    for split, count in plan:
        samples = pictures(split, drawings, count, config.seed)
        samples = counted(samples, f"drawing pictures to {split} on", count, "pictures")
        write_shards(samples, config.out, split, SHARD)
        say(f"{config.out}/{split}-*.tar: {count} pictures")
    write_json(config.out / "classes.json", [drawing.group for drawing in drawings])


def main(argv: Sequence[str]) -> None:
    """Write the shards as the command line says.

    Raises:
        FileExistsError, ValueError: See `build`.
    """
    build(checked(tyro.cli(PartsConfig, description=__doc__, args=list(argv))))
