"""What users choose of labelled data and of the task; a help text shows it without torch."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from data.config import Fit, FittedConfig, Pixels, SourceConfig, WorkerCount
from fcmae.run.ranges import (
    Batch,
    Byte,
    Classes,
    NotNegative,
    Real,
    Share,
    ShareBelow1,
    ShareInside,
)
from fcmae.weights.metadata import READING, Metadata

Kind = Literal["class", "labels", "value"]


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """How files become what a model takes: as the weights were made, but for what is given."""

    pixels: Pixels | None = None
    """uint8: every image in 8 bits. float32: images of 16 bits or floats, none of it lost. By
    default, as the images that the weights were made with, as are the next three."""
    range: tuple[Real, Real] | None = None
    """The stored values that become 0 and 1 (float32), or 0 and 255 (uint8); values beyond them are
    clipped."""
    nodata: Real | None = None
    """The stored value of pixels where nothing was measured. Like NaN, it becomes the channel's
    mean."""
    background: tuple[Byte, Byte, Byte] | None = None
    """Red, green and blue, from 0 to 255, of what shows where pictures are transparent, unless the
    model takes alpha as its fourth channel."""
    fit: Fit = "crop"
    """crop: the shorter side is resized to the model's size, and the centre is cut out. pad: all of
    the picture, and the mean beside it. squash: all of it, whatever its aspect becomes. tiles: as
    crop, but as many evenly spaced tiles as cover the picture; the mean of what they give counts.
    """

    def given(self, metadata: Metadata) -> Metadata:
        """The metadata of weights that go on with the images of this config."""
        values: dict[str, Any] = {name: getattr(self, name) for name in READING}
        return replace(metadata, **{k: v for k, v in values.items() if v is not None})

    def fitted(self, metadata: Metadata) -> FittedConfig:
        """How files are read for weights with these metadata."""
        return FittedConfig(**reading_of(self.given(metadata)), fit=self.fit)


R = TypeVar("R", bound=ReadingConfig)


def resolved(config: R, metadata: Metadata) -> R:
    """The config, with what weights of these metadata tell in place of what it leaves to them."""
    return replace(config, **reading_of(config.given(metadata)))


def reading_of(metadata: Metadata, prefix: str = "") -> dict[str, Any]:
    """How files are read as these weights were made, by the names of `ReadingConfig`'s fields.

    Args:
        metadata: of the weights.
        prefix: what the names begin with, such as `data.`.
    """
    return {prefix + name: getattr(metadata, name) for name in READING}


@dataclass(frozen=True, kw_only=True)
class InferenceConfig(ReadingConfig):
    """How images are read, and how many a model takes at a time."""

    batch_size: Batch = 128
    """Images at a time, on each process."""
    workers: WorkerCount = 2
    """Processes that decode images, for each process; auto: as many as it may use cores, at most
    16, shared among all processes."""
    max_bad_fraction: Share = 0.01
    """Share of the samples that may be broken. They are left out, counted and named."""
    image: str = ""
    """Suffix of the members that are the images, as input.jpg of 000.input.jpg. Empty: the first of
    jpg, jpeg, png and so on that a sample has."""
    source: SourceConfig = field(default_factory=SourceConfig)


@dataclass(frozen=True, kw_only=True)
class LabelledData(InferenceConfig):
    """Labelled images."""

    train: tuple[str, ...]
    """What to learn from: a folder with a sub-folder for each class, or a table; or shards: paths
    or patterns, such as 'DIR/train-{000000..000003}.tar'."""
    test: tuple[str, ...] = ()
    """What to report on, likewise, looked at once. Only a program with --report_on held_out does
    without."""
    group: str = ""
    """Field of the json member: samples that share its value stay on one side when training data is
    held out. Name it where images are related (one patient, one module); empty: no groups."""
    held_out: ShareInside = 0.2
    """Share of the training data on which hyper-parameters are chosen."""

    def check_test(self, instead: str = "") -> None:
        """Check that there is something to report on, for a program that reports on the test data.

        Args:
            instead: another way out, which ends the message.

        Raises:
            ValueError: there is nothing.
        """
        if not self.test:
            raise ValueError(
                "data.test is empty, so that there is nothing to report on: give a folder, a table"
                f" or shards as --data.test{instead}"
            )


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """The head and its loss."""

    kind: Kind = "class"
    """class: one of several, in .cls or in a field of .json. labels: any of several, in a field of
    .json, as a list of class numbers or of a zero or one for each. value: a number in a field of
    .json."""
    field: str = ""
    """The field of .json that holds the class, the labels or the value; empty for .cls."""
    classes: Classes | None = None
    """Number of classes; by default as many as classes.json beside the shards names, or as the
    labels of the training data go up to. The kind labels needs it without a classes.json."""
    loss: Literal["ce", "bce"] = "ce"
    """The loss of the kind class: cross-entropy, or binary cross-entropy of each class (Wightman et
    al. 2021)."""
    smoothing: ShareBelow1 = 0.1
    """Label smoothing, for the kind class."""
    balance: NotNegative = 0.0
    """Exponent of the inverse class frequencies that weigh the loss; 0: none, 1: all classes weigh
    the same, 0.5 lies between. For the kind labels, it is the ratio of samples without a label to
    those with it."""
