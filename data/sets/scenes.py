"""Synthetic scenes to segment: drawings of the embedded data set on textured noise, 96 px.

    python -m data.scenes datasets/scenes [--seed 0]

Nobody photographed or labelled these: two to five drawings of emoji are pasted at random places, at
random sizes, one over the other, and the mask knows what was pasted where. So masks are exact to a
pixel, objects have no context and backgrounds mean nothing. It is a test of programs, and a measure
of how well features tell and delimit these drawings; it says nothing about photographs.

A drawing is what is not white, with the white that it encloses. Classes are 0, the background, and
the nine Unicode groups, which are drawn alike often; of flags there are 23 drawings to learn from
and 8 to be tested on, and they repeat. Drawings of the training shards are in training scenes only,
test drawings in test scenes only. Training scenes take turns in taking drawings of one fifth of
each class's motifs: `--data.group fold` holds out scenes with drawings that no other scene has.

All of it is a function of the seed.
"""

import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import Bool
from PIL import Image

from data.sets import demo
from data.shards.reading import open_shards, read_sample
from data.shards.writing import refuse_existing, write_shards
from fcmae.run.files import write_json

CLASSES = ("background", *demo.CLASSES)
SIZE = 96  # side of a scene, pixels
SIDES = (24, 64)  # of a drawing, pixels: from, to
DRAWINGS = (2, 5)  # in a scene: from, to
TEXTURE = (2, 6, 24, 96)  # sides of the noises that are blended into a background, in cells
FOLDS = 5
SHARD = 500  # scenes


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """Write train and test shards of synthetic scenes."""

    out: Annotated[Path, tyro.conf.Positional]
    """The folder for them."""
    seed: int = 0
    """Of everything that is random in them."""
    train: int = 1500
    """Scenes to learn from."""
    test: int = 300
    """Scenes to report on."""


@dataclass(frozen=True)
class Drawing:
    """A drawing, opaque where it is not the white around it."""

    key: str
    group: str
    label: int
    image: Image.Image


def read_drawings(spec: str) -> list[Drawing]:
    """The drawings of shards of the embedded data set."""
    drawings = []
    for shard in open_shards(spec):
        for i in range(shard.samples):
            sample = read_sample(shard, i)
            png = sample["png"]
            assert isinstance(png, bytes)
            image = Image.open(io.BytesIO(png)).convert("RGB")
            inside = ~outside((np.asarray(image) == 255).all(-1))
            image.putalpha(Image.fromarray(inside.astype(np.uint8) * np.uint8(255)))
            group = json.loads(sample["json"])["group"]
            label = 1 + int(sample["cls"])
            drawings.append(Drawing(str(sample["__key__"]), group, label, image))
    return drawings


def outside(white: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Which white pixels are joined with the border by white ones, side by side."""
    framed = np.pad(white, 1, constant_values=True)
    found = np.zeros_like(framed)
    found[0, 0] = True
    before = 0
    while found.sum() > before:
        before = found.sum()
        found = spread(spread(found, framed).T, framed.T).T
    return found[1:-1, 1:-1]


def spread(
    found: Bool[np.ndarray, "h w"], white: Bool[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """The runs of white in rows of which a part is found; first and last column are white."""
    runs = (~white).cumsum().reshape(white.shape)  # from one row on into the next: both are outside
    return white & np.isin(runs, runs[found])


def deal(drawings: Sequence[Drawing], folds: int) -> list[dict[int, list[Drawing]]]:
    """The drawings of each fold by class: the motifs of every class are dealt out in turn."""
    fold_of, dealt = dict[str, int](), Counter[int]()
    by_fold = [defaultdict[int, list[Drawing]](list) for _ in range(folds)]
    for drawing in drawings:
        if drawing.group not in fold_of:
            fold_of[drawing.group] = dealt[drawing.label] % folds
            dealt[drawing.label] += 1
        by_fold[fold_of[drawing.group]][drawing.label].append(drawing)
    return [dict(fold) for fold in by_fold]


def scenes(
    split: demo.Split, drawings: Sequence[Drawing], count: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Samples with the members png, seg.png and json: the keys of the drawings, and the fold."""
    from data.pixel_labels import MASK  # here: it brings torch, which a help text does without

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
    """A scene of drawings by class, its mask, and the drawings in it from the back to the front."""
    image, mask = background(rng), Image.new("L", (SIZE, SIZE))
    labels, chosen = sorted(drawings), []
    for _ in range(rng.integers(*DRAWINGS, endpoint=True)):
        alike = drawings[labels[rng.integers(len(labels))]]
        drawing = alike[int(rng.integers(len(alike)))]
        side = int(rng.integers(*SIDES, endpoint=True))
        # a quarter of it may lie outside
        left, top = rng.integers(-side // 4, SIZE - 3 * side // 4, 2, endpoint=True).tolist()
        pasted = drawing.image.resize((side, side))
        opaque = Image.fromarray(np.asarray(pasted.getchannel("A")) >= 128)
        image.paste(pasted, (left, top), pasted)
        mask.paste(drawing.label, (left, top), opaque)
        chosen.append(drawing)
    return image, mask, chosen


def background(rng: np.random.Generator) -> Image.Image:
    """Noises of several scales, blended at random."""
    blended = np.zeros((SIZE, SIZE, 3))
    for side, weight in zip(TEXTURE, rng.dirichlet(np.ones(len(TEXTURE))), strict=True):
        noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
        blended += weight * np.asarray(noise.resize((SIZE, SIZE)))
    return Image.fromarray(blended.astype(np.uint8))


def png_of(image: Image.Image) -> bytes:
    """Losslessly."""
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def build(config: ScenesConfig) -> None:
    """Write the shards and classes.json, and say what is in them.

    Raises:
        FileExistsError: there are shards already.
        ValueError: a negative seed; no scenes.
    """
    if config.seed < 0:
        raise ValueError(f"seed={config.seed} must not be negative")
    for split in ("train", "test"):
        refuse_existing(config.out, split)
    plan: tuple[tuple[demo.Split, str, int], ...] = (
        ("train", demo.TRAIN, config.train),
        ("test", demo.TEST, config.test),
    )
    for split, spec, count in plan:
        made = scenes(split, read_drawings(spec), count, config.seed)
        write_shards(made, config.out, split, SHARD)
        print(f"{config.out}/{split}-*.tar: {count} scenes")
    write_json(config.out / "classes.json", CLASSES, compact=True)


def main(argv: Sequence[str]) -> None:
    """Write the shards that the command line asks for; raises as `build`."""
    build(tyro.cli(ScenesConfig, description=__doc__, args=list(argv)))
