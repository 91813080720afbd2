"""What training keeps for a report: a fixed set of images, and what becomes of them at steps.

`RUN/watched/images.safetensors` has the images, and `RUN/watched/step_NNNNNNN.safetensors` what the
encoder and the decoder made of them. Only what a section shows is read of the latter.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from safetensors import SafetensorError, safe_open

from fcmae.run.json_files import field_of, parse_json
from fcmae.run.terminal import line_of

FOLDER = "watched"
VIEWS = ("visible", "prediction", "pasted")
PLACES = ("images", "rows", "columns", "values")  # of what excites a channel most


@dataclass(frozen=True, kw_only=True)
class WatchedImages:
    """The images that a run watches; each array has a row for each of them."""

    pixels: UInt8[np.ndarray, "n 3 h w"]
    """Red, green and blue, as pictures show them."""
    labels: Int64[np.ndarray, " n"]
    """The number of the class, -1 where none is known."""
    keys: tuple[str, ...]
    """The keys of the samples."""
    classes: tuple[str, ...]
    """The names of the classes; numbers beyond them stay numbers."""

    def __len__(self) -> int:
        return len(self.pixels)

    def class_of(self, image: int) -> str:
        """The name of the class of an image; empty if it has none."""
        label = int(self.labels[image])
        if label < 0:
            return ""
        return self.classes[label] if label < len(self.classes) else str(label)

    def named(self, image: int) -> str:
        """What an image is called: its key, and its class if it has one."""
        name = self.class_of(image)
        return f"{self.keys[image]} ({name})" if name else self.keys[image]


@dataclass(frozen=True, kw_only=True)
class WatchedStep:
    """A file of what became of the images at a step."""

    path: Path
    step: int
    """The number of steps that had been taken."""
    strides: tuple[int, ...]
    """Pixels between two positions in the map of each stage."""
    names: frozenset[str]
    """The tensors that it has."""

    def __getitem__(self, name: str) -> np.ndarray:
        """Read a tensor.

        Raises:
            OSError: the file is gone.
        """
        with safe_open(self.path, "numpy") as file:
            return file.get_tensor(name)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The images that a run watches, and the steps at which it did, the earliest first."""

    images: WatchedImages
    steps: Sequence[WatchedStep]

    def having(self, *names: str) -> list[WatchedStep]:
        """The steps whose files have all these tensors."""
        return [step for step in self.steps if step.names.issuperset(names)]


def read_watched(run: Path, problems: list[str]) -> Watched | None:
    """Read what a run has kept so far; None if there is nothing, or no images.

    Args:
        run: the directory of the run.
        problems: gets a sentence on each file that cannot be read.
    """
    images: WatchedImages | None = None
    steps = list[WatchedStep]()
    file = run / FOLDER / "images.safetensors"
    files = sorted((run / FOLDER).glob("step_*.safetensors"))
    if not file.exists() and not files:
        return None
    try:
        images = read_images(file)
    except (OSError, ValueError, SafetensorError) as error:
        problems.append(f"{FOLDER}/{file.name} cannot be read: {line_of(error)}.")
        return None
    for file in files:
        try:
            steps.append(read_step(file, images))
        except (OSError, ValueError, SafetensorError) as error:
            problems.append(f"{FOLDER}/{file.name} cannot be read: {line_of(error)}.")
    return Watched(images=images, steps=sorted(steps, key=lambda step: step.step))


def read_images(path: Path) -> WatchedImages:
    """Read the images.

    Raises:
        OSError: the file cannot be read.
        ValueError: it lacks something, or has other sizes or types.
        SafetensorError: it is damaged.
    """
    with safe_open(path, "numpy") as file:
        keys, classes = (told_in(file, name, tuple[str, ...]) for name in ("keys", "classes"))
        check(file, "images", "U8", (None, 3, None, None))
        pixels = file.get_tensor("images")
        check(file, "labels", "I64", (len(pixels),))
        labels = file.get_tensor("labels")
    if len(keys) != len(pixels) or not pixels.size:
        raise ValueError(f"it has {len(keys)} keys for {len(pixels)} images")
    return WatchedImages(pixels=pixels, labels=labels, keys=keys, classes=classes)


def read_step(path: Path, images: WatchedImages) -> WatchedStep:
    """Look into the file of a step, and check all that is in it but the values of features.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is of other images, lacks something, or has other sizes or types.
        SafetensorError: it is damaged.
    """
    with safe_open(path, "numpy") as file:
        step = told_in(file, "step", int)
        strides = told_in(file, "strides", tuple[int, ...])
        names = frozenset(file.keys())
        if "features" in names:
            check(file, "features", "F16", (len(images), None))
        for view in names.intersection(VIEWS):
            check(file, view, "U8", (min(8, len(images)), *images.pixels.shape[1:]))
        for stage in stages_in(names):
            if not 1 <= stage <= len(strides) or strides[stage - 1] < 1:
                raise ValueError(f"it has no stride of stage {stage}")
            check_places(file, stage, strides[stage - 1], images)
        for block in blocks_in(names):
            check(file, f"grn{block}.response", "F32", (None,))
    return WatchedStep(path=path, step=step, strides=strides, names=names)


def told_in(file: Any, name: str, hint: Any) -> Any:
    """An entry of the metadata of a file of safetensors, whose text is JSON.

    Args:
        file: that is open.
        name: of the entry.
        hint: the type that its value has.

    Raises:
        ValueError: there is none, it is no JSON, or of another type.
    """
    given: Mapping[str, str] = file.metadata() or {}
    found = {name: parse_json(given[name], f"its {name!r}", object)} if name in given else {}
    return field_of(found, name, hint)


def check(file: Any, name: str, dtype: str, shape: tuple[int | None, ...]) -> None:
    """Check a tensor's type and sizes, without reading it; None stands for any size from 1 on.

    Raises:
        ValueError: they are others.
    """
    part = file.get_slice(name)
    found = tuple(part.get_shape())
    fits = len(found) == len(shape) and all(
        (a > 0 if b is None else a == b) for a, b in zip(found, shape, strict=True)
    )
    if part.get_dtype() != dtype or not fits:
        wanted = " x ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(
            f"its {name!r} is {part.get_dtype()} {' x '.join(map(str, found))}, and not"
            f" {dtype} {wanted}"
        )


def check_places(file: Any, stage: int, stride: int, images: WatchedImages) -> None:
    """Check that what excites the channels of a stage lies in the images.

    Raises:
        ValueError: it does not.
    """
    check(file, f"stage{stage}.channels", "I64", (None,))
    shape = (file.get_slice(f"stage{stage}.channels").get_shape()[0], None)
    height, width = (-(-side // stride) for side in images.pixels.shape[2:])
    for part, most in zip(PLACES, (len(images), height, width, None), strict=True):
        name = f"stage{stage}.{part}"
        check(file, name, "F32" if most is None else "I64", shape)
        values = file.get_tensor(name)
        if most is not None and not np.all((values >= 0) & (values < most)):
            raise ValueError(f"its {name!r} has values that are not from 0 to {most - 1}")


def stages_in(names: frozenset[str]) -> list[int]:
    """The stages of which a file has channels, the first one first."""
    return numbers_in(names, r"stage(\d{1,3})\.channels")


def blocks_in(names: frozenset[str]) -> list[int]:
    """The blocks of which a file has responses of GRN, the first one first."""
    return numbers_in(names, r"grn(\d{1,4})\.response")


def numbers_in(names: frozenset[str], pattern: str) -> list[int]:
    """The numbers in names that have a pattern, in their order."""
    return sorted(int(found[1]) for name in names if (found := re.fullmatch(pattern, name)))


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`: the first, the last and an even choice between.

    Args:
        count: how many there are.
        most: at least 2, or 1 for the last one alone.
    """
    if count <= most:
        return list(range(count))
    if most == 1:
        return [count - 1]
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]
