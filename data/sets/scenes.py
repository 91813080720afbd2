"""Synthetic scenes to segment: drawings of the embedded data set on textured noise, 96 px.

    fcmae scenes datasets/scenes [--seed 0]

Nobody photographed or labelled these scenes. Two to five drawings of emoji are pasted at random
places and sizes, some over others, and the mask records what was pasted where. So masks are exact
to a pixel, objects have no context, and backgrounds mean nothing. The scenes test programs, and
measure how well features recognise and delimit these drawings. They say nothing about photographs.

A drawing is everything that is not white, and the white that it encloses. The classes are 0 for the
background, and the nine Unicode groups, which often look alike. There are only 23 drawings of flags
to learn from and 8 to test with, so flags repeat. Drawings of the training shards are in training
scenes only, and test drawings in test scenes only. Each training scene takes its drawings from one
fifth of the motifs of each class, and the fifths take turns: so `--data.group fold` holds out
scenes with drawings that no other scene has.

Everything is a function of the seed.
"""

import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import Bool, Int
from PIL import Image

from data.sets import demo
from data.sets.embedded import Split
from data.shards.reading import open_shards, read_sample
from data.shards.writing import refuse_existing, write_shards
from fcmae.run.files import write_json
from fcmae.run.json_files import parse_json
from fcmae.run.ranges import Count, Seed, checked
from fcmae.run.terminal import say
from fcmae.run.waiting import counted

CLASSES = ("background", *demo.CLASSES)
SIZE = 96  # side of a scene in pixels
SIDES = (24, 64)  # side of a drawing in pixels: from, to
DRAWINGS = (2, 5)  # number of drawings in a scene: from, to
TEXTURE = (2, 6, 24, 96)  # sides in cells of the noise images that make a background
FOLDS = 5
SHARD = 500  # scenes in a shard


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """Write train and test shards of synthetic scenes."""

    out: Annotated[Path, tyro.conf.Positional]
    """The folder for the shards."""
    seed: Seed = 0
    """The seed of everything that is random in the scenes."""
    train: Count = 1500
    """Number of scenes in the train shards, to learn from."""
    test: Count = 300
    """Number of scenes in the test shards, to measure with."""


@dataclass(frozen=True)
class Drawing:
    """A drawing of an emoji, whose image is transparent in the white around it."""

    key: str
    group: str
    label: int
    image: Image.Image


def read_drawings(spec: str) -> list[Drawing]:
    """Read the drawings in shards of the embedded data set."""
    drawings = []
    for shard in open_shards(spec):
        for i in range(shard.samples):
            sample = read_sample(shard, i)
            png = sample["png"]
            assert isinstance(png, bytes)
            image = Image.open(io.BytesIO(png)).convert("RGB")
            inside = ~outside((np.asarray(image) == 255).all(-1))
            image.putalpha(Image.fromarray(inside.astype(np.uint8) * np.uint8(255)))
            group = parse_json(sample["json"], "json", dict)["group"]
            label = 1 + int(sample["cls"])
            drawings.append(Drawing(str(sample["__key__"]), group, label, image))
    return drawings


def outside(white: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The white pixels that are connected with the border through white pixels, side by side."""
    framed = np.pad(white, 1, constant_values=True)
    rows, columns = number_runs(framed), number_runs(framed.T)
    reached = np.zeros_like(framed)
    reached[0, 0] = True
    before = 0
    while reached.sum() > before:
        before = reached.sum()
        reached = framed & spread(reached, rows)
        reached = framed & spread(reached.T, columns).T
    return reached[1:-1, 1:-1]


def number_runs(white: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Number the runs of white pixels in the rows; a pixel that is not white begins the next one.

    A run may go on in the next row, where the first and the last column are white and outside.
    """
    return (~white).cumsum().reshape(white.shape)


def spread(
    reached: Bool[np.ndarray, "h w"], runs: Int[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """Reach the whole of every run that is reached in some pixel."""
    touched = np.zeros(runs[-1, -1] + 1, bool)
    touched[runs[reached]] = True
    return touched[runs]


def deal(drawings: Sequence[Drawing], folds: int) -> list[dict[int, list[Drawing]]]:
    """Deal the motifs of each class out to folds, and give the drawings of each fold by class."""
    fold_of: dict[str, int] = {}
    dealt: Counter[int] = Counter()
    by_fold = [defaultdict[int, list[Drawing]](list) for _ in range(folds)]
    for drawing in drawings:
        if drawing.group not in fold_of:
            fold_of[drawing.group] = dealt[drawing.label] % folds
            dealt[drawing.label] += 1
        by_fold[fold_of[drawing.group]][drawing.label].append(drawing)
    return [dict(fold) for fold in by_fold]


def scenes(
    split: Split, drawings: Sequence[Drawing], count: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield scenes as samples with the members png, seg.png and json.

    The json member has the keys of the drawings, and the fold.
    """
    from data.pixel_labels import MASK  # here: it imports torch, which a help text does not need

    by_fold = deal(drawings, FOLDS if split == "train" else 1)
    for i in range(count):
        fold = i % len(by_fold)
        rng = np.random.default_rng([seed, split == "test", i])
        image, mask, chosen = compose(by_fold[fold], rng)
        yield {
            "__key__": f"{split}-{i:05d}",
            "png": png_of(image),
            MASK: png_of(mask),
            "json": {"drawings": [drawing.key for drawing in chosen], "fold": fold},
        }


def compose(
    drawings: Mapping[int, Sequence[Drawing]], rng: np.random.Generator
) -> tuple[Image.Image, Image.Image, list[Drawing]]:
    """Compose a scene. Gives the image, its mask, and its drawings from the back to the front."""
    image = background(rng)
    mask = Image.new("L", (SIZE, SIZE))
    labels = sorted(drawings)
    chosen = []
    for _ in range(rng.integers(*DRAWINGS, endpoint=True)):
        alike = drawings[labels[rng.integers(len(labels))]]
        drawing = alike[int(rng.integers(len(alike)))]
        side = int(rng.integers(*SIDES, endpoint=True))
        # up to a quarter of its width and height may lie outside
        left, top = rng.integers(-side // 4, SIZE - 3 * side // 4, 2, endpoint=True).tolist()
        pasted = drawing.image.resize((side, side))
        opaque = Image.fromarray(np.asarray(pasted.getchannel("A")) >= 128)
        image.paste(pasted, (left, top), pasted)
        mask.paste(drawing.label, (left, top), opaque)
        chosen.append(drawing)
    return image, mask, chosen


def background(rng: np.random.Generator) -> Image.Image:
    """Blend noise images of several scales with random weights."""
    blended = np.zeros((SIZE, SIZE, 3))
    for side, weight in zip(TEXTURE, rng.dirichlet(np.ones(len(TEXTURE))), strict=True):
        noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
        blended += weight * np.asarray(noise.resize((SIZE, SIZE)))
    return Image.fromarray(blended.astype(np.uint8))


def png_of(image: Image.Image) -> bytes:
    """Encode an image as a PNG."""
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def build(config: ScenesConfig) -> None:
    """Write the shards and classes.json, and print what they hold.

    Raises:
        FileExistsError: The folder has such shards already.
    """
    for split in ("train", "test"):
        refuse_existing(config.out, split)
    plan: tuple[tuple[Split, str, int], ...] = (
        ("train", demo.TRAIN, config.train),
        ("test", demo.TEST, config.test),
    )
    for split, spec, count in plan:
        samples = scenes(split, read_drawings(spec), count, config.seed)
        samples = counted(samples, f"drawing scenes to {split} on", count, "scenes")
        write_shards(samples, config.out, split, SHARD)
        say(f"{config.out}/{split}-*.tar: {count} scenes")
    write_json(config.out / "classes.json", CLASSES, compact=True)


def main(argv: Sequence[str]) -> None:
    """Write the shards as the command line says.

    Raises:
        FileExistsError, ValueError: See `build`.
    """
    build(checked(tyro.cli(ScenesConfig, description=__doc__, args=list(argv))))
