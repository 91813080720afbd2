"""Settings for data that help texts show. This file does not import torch."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fcmae.run.ranges import (
    Byte,
    Count,
    Degrees,
    Extent,
    NotNegative,
    Percent,
    Positive,
    Real,
    Seconds,
    Share,
    ShareAbove0,
    Workers,
)

# of every format in data/formats/sniffing.py, the names that its files have
IMAGE_SUFFIXES = (
    *("jpg", "jpeg", "png", "webp", "tif", "tiff", "npy", "jpe", "jfif", "apng", "bmp", "dib"),
    *("gif", "ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "j2c", "jpc", "jpf", "jpx"),
    *("avif", "heic", "heif", "dcm", "dicom"),
)
# mean and standard deviation of the channels on the scale 0 to 1
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EACH_CHANNEL = {"each": "channel"}  # what each number of a field is for, in errors
IGNORED = 255  # in a mask, the value of pixels that belong to no class
Pixels = Literal["uint8", "float32"]
Fit = Literal["crop", "pad", "squash", "tiles"]
WorkerCount = Workers | Literal["auto"] | None


@dataclass(frozen=True, kw_only=True)
class StoredConfig:
    """What the values that a file stores mean."""

    range: tuple[Real, Real] | None = None
    """The stored values that become 0 and 1 (float32), or 0 and 255 (uint8); values beyond them are
    clipped. None: the whole range of 8 or 16 bits; floats stay as they are."""
    nodata: Real | None = None
    """The stored value of pixels where nothing was measured. Like NaN, it becomes the channel's
    mean."""
    background: tuple[Byte, Byte, Byte] = (255, 255, 255)
    """Red, green and blue, from 0 to 255, of what shows where pictures are transparent, unless four
    channels are wanted, of which alpha is one."""

    def __post_init__(self) -> None:
        if self.range is not None and not self.range[0] < self.range[1]:
            low, high = self.range
            raise ValueError(f"range {low:g} {high:g}: the first value must be the smaller one")
        if not all(0 <= value <= 255 for value in self.background):
            raise ValueError(f"background {self.background}: values must be 0 to 255")


@dataclass(frozen=True, kw_only=True)
class PixelConfig(StoredConfig):
    """How the values that a file stores become the pixels that a model takes."""

    pixels: Pixels = "uint8"
    """uint8: every image in 8 bits. float32: images of 16 bits or floats, none of it lost."""


@dataclass(frozen=True, kw_only=True)
class FittedConfig(PixelConfig):
    """How a whole picture becomes what a model takes, where nothing is drawn by chance."""

    fit: Fit = "crop"
    """crop: the shorter side is resized to the model's size, and the centre is cut out. pad: all of
    the picture, and the mean beside it. squash: all of it, whatever its aspect becomes. tiles: as
    crop, but as many evenly spaced tiles as cover the picture; the mean of what they give counts.
    """


EIGHT_BITS = PixelConfig()
MEASURED = PixelConfig(pixels="float32")  # how values are measured, and checked, without a loss


@dataclass(frozen=True, kw_only=True)
class Encoding(StoredConfig):
    """How images are stored in shards."""

    max_side: Count | None = None
    """Shrink 8-bit grey and RGB images to at most this many pixels on the longer side, and encode
    those that shrink as JPEG. Other images are copied as they are."""
    quality: Percent = 92
    """Quality of the JPEGs that are encoded again, from 1 to 100."""
    in_chans: Extent | None = None
    """Number of channels to check images and to compute statistics in. By default, as many as the
    first image has."""
    mask_values: str | None = None
    """Values in masks that become the classes 0, 1 and so on, such as 0,255. By default, values are
    the numbers of classes. Pixels of 255 are ignored, unless 255 is one of the values."""
    compress: bool = False
    """Write .tar.gz. This helps with images of about 2 kB, whose size tar headers would double."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """How shards are read that do not lie on a local disk."""

    read: Literal["shard", "range"] = "shard"
    """shard: whole shards are fetched into the cache. range: each sample is fetched alone, for
    caches smaller than data.window shards."""
    cache: Path = Path("~/.cache/fcmae")
    """Directory of fetched shards, and of the indexes of shards that have none beside them. The
    processes of a node share it."""
    cache_gb: Positive = 50.0
    """Bound on the fetched shards and on those that are being fetched, in 10^9 bytes; the least
    recently used ones go."""
    attempts: Count = 6
    """Times that a read is tried before the run stops."""
    backoff: NotNegative = 1.0
    """Seconds before the second attempt, doubled for each further one, up to 60. A server that asks
    for a longer pause gets it, up to 60, too."""
    timeout: Seconds = 30.0
    """Seconds that a server may take to accept a connection and begin its answer, and then to send
    the next bytes."""
    total_timeout: Seconds = 21600.0
    """Seconds that one answer may take in all."""
    min_speed: NotNegative = 10.0
    """Thousand bytes a second that an answer must bring once it has taken longer than the timeout;
    a slower one is given up."""


def check_statistics(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Check the mean and the standard deviation of each channel.

    Raises:
        ValueError: One is not finite, or a deviation is not above 0; the message names its channel.
    """
    for name, values in (("mean", mean), ("std", std)):
        for i, value in enumerate(values):
            if not math.isfinite(value):
                raise ValueError(f"data.{name} has {value:g} for channel {i}: it must be finite")
            if name == "std" and value <= 0:
                raise ValueError(
                    f"data.std has {value:g} for channel {i}: it must be above 0; 1 leaves a"
                    " constant channel as it is"
                )


@dataclass(frozen=True, kw_only=True)
class JitterConfig:
    """Small random changes of crops, for images whose meaning they leave alone; none by default."""

    rotate: Degrees = 0.0
    """Largest angle, in degrees, by which a crop is turned either way. Its corners show what is
    beside them, as in a mirror."""
    brightness: NotNegative = 0.0
    """Largest change of the brightness either way, in standard deviations of the data, data.std."""
    contrast: Share = 0.0
    """Largest change of the contrast either way, as a share of it: 0.4 makes the distances of
    values from the crop's mean 0.6 to 1.4 times as large."""
    colour: Share = 0.0
    """Largest change of the saturation either way, as a share of it, and of the hue, by a quarter
    of that share of the circle of colours; for 8-bit images of red, green and blue alone."""

    @property
    def asked_for(self) -> bool:
        """Whether anything changes."""
        return any(vars(self).values())


@dataclass(frozen=True, kw_only=True)
class DataConfig(PixelConfig):
    """Where the images come from and how they become tensors."""

    train: tuple[str, ...]
    """A folder or a table of images, which becomes shards once, in the cache; or shards: paths,
    URLs (http, s3, gs, hf) or patterns, as 'DIR/train-{000000..000003}.tar' or 'DIR/*.tar', whose
    matches are sorted."""
    image: str = ""
    """Suffix of the members that are the images, as input.jpg of 000.input.jpg. Empty: the first of
    jpg, jpeg, png and so on that a sample has."""
    window: Count = 64
    """Shards whose samples are mixed, and which a node has to have at hand at a time."""
    max_bad_fraction: Share = 0.01
    """Share of the samples that may be broken. They are skipped, counted and named."""
    scale: tuple[ShareAbove0, ShareAbove0] = (0.2, 1.0)
    """Share of the image's area that a random crop keeps: from, to."""
    flip: bool = True
    """Mirror half of the images left to right."""
    jitter: JitterConfig = field(default_factory=JitterConfig)
    mean: tuple[Real, ...] = field(default=IMAGENET_MEAN, metadata=EACH_CHANNEL)
    """Mean of each channel on the scale 0 to 1, or one value for all; none: the shards' own, which
    `fcmae shards make` keeps in their index."""
    std: tuple[NotNegative, ...] = field(default=IMAGENET_STD, metadata=EACH_CHANNEL)
    """Standard deviation of each channel, or one value for all; none: the shards' own."""
    workers: WorkerCount = 2
    """Processes that decode images, for each training process; they change no number. auto, or
    None: as many as it may use cores, at most 16, shared among all training processes."""
    source: SourceConfig = field(default_factory=SourceConfig)
