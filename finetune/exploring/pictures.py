"""The pictures that a page asks about: images of the data set, and the last ones that were dropped.

Dropped ones are in memory alone, as tensors of the model's size.
"""

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from jaxtyping import Float
from torch import Tensor

from data.config import FittedConfig
from data.formats.opened import OversizedImage
from data.formats.sniffing import kind_of
from fcmae.weights.metadata import Metadata
from finetune.exploring.data_images import DataImages
from finetune.labels.inference import normalised, opened

MOST_BYTES = 32_000_000  # of a file
MOST_PIXELS = 50_000_000  # of which some hundred MB are made while a picture is read
KEPT = 32  # dropped pictures
SAMPLE = "sample-"  # in front of the number of an image of the data set


@dataclass(frozen=True)
class Picture:
    """A normalised image, its name, and its number in the data set, if it is of it."""

    image: Float[Tensor, "c h w"]
    name: str
    sample: int | None


class Pictures:
    """Gives pictures by name.

    Args:
        metadata: Of the model.
        config: How dropped files are read.
        data: The data set, or None.
    """

    def __init__(self, metadata: Metadata, config: FittedConfig, data: DataImages | None) -> None:
        self.metadata = metadata
        self.config = config
        self.data = data
        self.dropped: OrderedDict[str, Picture] = OrderedDict()
        self.lock = Lock()

    def drop(self, encoded: bytes) -> str:
        """Read a dropped file, forget the oldest one, and return the name of the picture.

        Raises:
            ValueError: It is empty, has too many pixels or is no image that can be decoded.
            ModuleNotFoundError: Its format needs an extra.
        """
        if not encoded:
            raise ValueError("the file is empty: drop an image")
        if kind_of(encoded) is None:
            raise ValueError(
                "the file is no image in a format that is read: drop a JPEG, PNG, WebP or TIFF"
            )
        try:
            picture = opened(encoded, "", self.metadata, self.config)
            if picture.height * picture.width > MOST_PIXELS:
                raise OversizedImage
            (image,) = normalised(picture, self.metadata, self.config)
        except OversizedImage as error:
            most = f"{MOST_PIXELS / 1e6:.0f} million pixels"
            raise ValueError(f"the image has more than {most}: drop a smaller one") from error
        name = secrets.token_urlsafe(16)
        with self.lock:
            self.dropped[name] = Picture(image, "your image", None)
            while len(self.dropped) > KEPT:
                self.dropped.popitem(last=False)
        return name

    def __getitem__(self, name: str) -> Picture:
        number = name.removeprefix(SAMPLE)
        if self.data is not None and number != name and number.isdecimal():
            sample = int(number)
            return Picture(*self.data.read(sample), sample)
        with self.lock:
            if name not in self.dropped:
                raise ValueError(
                    f"this picture is not kept any more, since {KEPT} came after it: drop it again"
                )
            self.dropped.move_to_end(name)
            return self.dropped[name]


def refuse_bytes(count: int, most: int) -> None:
    """Refuse what has more than so many bytes.

    Raises:
        ValueError: It has more.
    """
    if count > most:
        raise ValueError(
            f"the file has {count / 1e6:.1f} MB, and the page takes {most / 1e6:g} MB: drop a"
            " smaller one"
        )
