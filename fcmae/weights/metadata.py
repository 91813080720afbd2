"""The metadata of weights: what our files tell about them, and under which keys."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from fcmae.architecture import Architecture
from fcmae.run.json_files import as_dataclass, parse_json, typed

MOST = 2**16  # sides of images in pixels, and channels
HEADER = "fcmae"  # key of the metadata in a safetensors header or next to `model` in a .pt file
READING = ("pixels", "range", "nodata", "background")  # how the images' files were read
CLASSES = "classes"  # key of the names of a classifier's classes, a JSON list of strings
HeadPool = Literal["last", "grid2", "grid3"]
SIDES: Mapping[str, int] = {"last": 1, "grid2": 2, "grid3": 3}  # of the grid of cells, in cells
SEGMENTER = "segmenter"  # key of what finetune.segment tells of the head of its weights


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a user of the weights has to know; our files hold it as JSON."""

    model: str
    """Name of the encoder, such as `convnextv2_atto`."""
    image_size: tuple[int, int]
    """Height and width of the images in pixels."""
    in_chans: int
    """Number of channels of the images."""
    mean: tuple[float, ...]
    """Mean of the pixels, on the scale 0 to 1: one for each channel, or one for all."""
    std: tuple[float, ...]
    """Standard deviation of the pixels, as the mean."""
    stem_stride: int
    """Stride of the stem in pixels: 4, 2 or 1."""
    step: int | None
    """Step of the pretraining run; None for weights from elsewhere."""
    # Files of earlier versions do not have what follows, and were made of 8 bits. It is not in
    # `repr`, whose hash names features that were kept by how their images were read besides.
    pixels: Literal["uint8", "float32"] = field(default="uint8", repr=False)
    """Whether images were read in 8 bits, or as floats of which nothing is lost."""
    range: tuple[float, float] | None = field(default=None, repr=False)
    """The stored values that became 0 and 1; None for the whole range of the files' type."""
    nodata: float | None = field(default=None, repr=False)
    """The stored value of pixels where nothing was measured."""
    background: tuple[int, int, int] = field(default=(255, 255, 255), repr=False)
    """Red, green and blue, 0 to 255, of what showed where pictures are transparent."""
    depths: tuple[int, int, int, int] | None = field(default=None, repr=False)
    """Numbers of blocks of the stages; None for those that the model's name tells."""
    widths: tuple[int, int, int, int] | None = field(default=None, repr=False)
    """Numbers of channels of the stages; None for those that the model's name tells."""
    pool: HeadPool = field(default="last", repr=False)
    """What the classifier takes, if there is one: the mean of the last map, or of each cell of a
    grid of 2 x 2 or 3 x 3."""

    @property
    def without_classifier(self) -> "Metadata":
        """What is to be known of the same encoder alone."""
        return replace(self, pool="last")

    @property
    def architecture(self) -> Architecture:
        """The architecture of the encoder that has the weights."""
        return Architecture(
            name=self.model,
            image_size=self.image_size,
            in_chans=self.in_chans,
            stem_stride=self.stem_stride,
            depths=self.depths,
            widths=self.widths,
        )

    @property
    def channel_mean(self) -> tuple[float, ...]:
        """The mean of the pixels of each channel, on the scale 0 to 1."""
        return self.mean * (self.in_chans // len(self.mean))

    @property
    def channel_std(self) -> tuple[float, ...]:
        """The standard deviation of the pixels of each channel, on the scale 0 to 1."""
        return self.std * (self.in_chans // len(self.std))

    @property
    def scale(self) -> str:
        """What the scale 0 to 1 is of the values that files store, in words."""
        if self.range is not None:
            low, high = self.range
            return f"(stored value - {low:g}) / {high - low:g}, clipped to 0 ... 1"
        floats = "" if self.pixels == "uint8" else ", a 65535th of 16-bit ones, floats as they are"
        return f"a 255th of 8-bit pixels{floats}"

    @staticmethod
    def of(
        architecture: Architecture,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        step: int | None,
    ) -> "Metadata":
        """Make the metadata of an encoder for images with this mean and standard deviation."""
        return Metadata(
            model=architecture.name,
            image_size=architecture.sides,
            in_chans=architecture.in_chans,
            mean=mean,
            std=std,
            stem_stride=architecture.stem_stride,
            step=step,
            depths=architecture.depths,
            widths=architecture.widths,
        )

    @staticmethod
    def of_json(text: str) -> "Metadata":
        """Read the metadata that a header holds as JSON.

        Raises:
            ValueError: the text is no JSON, or has other fields or values.
        """
        metadata = as_dataclass(Metadata, parse_json(text, "it", object))
        metadata.check()
        return metadata

    def check(self) -> None:
        """Check what others have told of images, whose values are finite numbers.

        Raises:
            ValueError: a side, a number of channels, mean, std or range is none that images have.
        """
        if not all(0 < n <= MOST for n in (*self.image_size, self.in_chans)):
            raise ValueError(f"sides and channels of images are 1 to {MOST}")
        if not all(0 < n <= MOST for n in (*(self.depths or ()), *(self.widths or ()))):
            raise ValueError(f"depths and widths of stages are 1 to {MOST}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.in_chans):
                raise ValueError(f"{name} has {len(values)} values for {self.in_chans} channels")
        if min(self.std) <= 0:
            raise ValueError(f"std has the value {min(self.std)}, which is not above 0")
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError(f"range is {self.range}, which does not go up")


def header_for(metadata: Metadata, extra_header: Mapping[str, str]) -> dict[str, str]:
    """Make the header of our files: the metadata as JSON, and the entries of `extra_header`.

    They are sorted, since safetensors gives them in an order that varies. Without a classifier on a
    grid, `pool` is left out, so that earlier versions read the file.
    """
    told = asdict(metadata)
    if metadata.pool == "last":
        del told["pool"]
    return {HEADER: json.dumps(told), **dict(sorted(extra_header.items()))}


def class_names(extra_header: Mapping[str, str], count: int) -> tuple[str, ...]:
    """Read the names of a classifier's `count` classes out of a header, or take their numbers.

    Raises:
        ValueError: the names are no list, or not as many as classes.
    """
    if CLASSES not in extra_header:
        return tuple(map(str, range(count)))
    try:
        names = typed(parse_json(extra_header[CLASSES], "it", object), tuple[str, ...])
    except ValueError as error:
        raise ValueError(f"the metadata under {CLASSES!r} are damaged: {error}") from error
    if len(names) != count:
        raise ValueError(
            f"{len(names)} names for a classifier of {count} classes: correct {CLASSES!r} in the"
            " header"
        )
    return names
