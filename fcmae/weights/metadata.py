"""What files of ours tell of the weights in them, and the keys that it stands under."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fcmae.architecture import Architecture

HEADER = "fcmae"  # key of the metadata in a safetensors header or beside `model` in a .pt file
CLASSES = "classes"  # key of the names of a classifier's classes, a JSON list of strings


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a user of the weights must know; files of ours hold it as JSON."""

    model: str
    image_size: tuple[int, int]
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stem_stride: int
    step: int | None
    """Of the pretraining run; None for weights from elsewhere."""

    @property
    def architecture(self) -> Architecture:
        """The encoder that the weights are of."""
        return Architecture(
            name=self.model,
            image_size=self.image_size,
            in_chans=self.in_chans,
            stem_stride=self.stem_stride,
        )

    @property
    def channel_mean(self) -> tuple[float, ...]:
        """One mean for each channel."""
        return self.mean * (self.in_chans // len(self.mean))

    @property
    def channel_std(self) -> tuple[float, ...]:
        """One standard deviation for each channel."""
        return self.std * (self.in_chans // len(self.std))

    @staticmethod
    def of(
        architecture: Architecture,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        step: int | None,
    ) -> "Metadata":
        """The metadata of weights of an encoder that sees images of this mean and deviation."""
        return Metadata(
            model=architecture.name,
            image_size=architecture.sides,
            in_chans=architecture.in_chans,
            mean=mean,
            std=std,
            stem_stride=architecture.stem_stride,
            step=step,
        )

    @staticmethod
    def of_json(text: str) -> "Metadata":
        """The metadata that a header holds.

        Raises:
            ValueError: it is no JSON.
            TypeError: it holds something else.
        """
        fields: dict[str, Any] = json.loads(text)
        return Metadata(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})  # type: ignore[arg-type]


def header_for(metadata: Metadata, extra_header: Mapping[str, str]) -> dict[str, str]:
    """The header of a file of ours: the metadata as JSON, and what else it tells."""
    return {HEADER: json.dumps(asdict(metadata)), **extra_header}


def class_names(extra_header: Mapping[str, str], count: int) -> tuple[str, ...]:
    """The names that a header has for a classifier's `count` classes, or their numbers.

    Raises:
        ValueError: they are no list, or not as many.
    """
    if CLASSES not in extra_header:
        return tuple(map(str, range(count)))
    try:
        names = tuple(map(str, json.loads(extra_header[CLASSES])))
    except (ValueError, TypeError) as error:
        raise ValueError(f"the metadata under {CLASSES!r} are damaged: {error}") from error
    if len(names) != count:
        raise ValueError(
            f"{len(names)} names for a classifier of {count} classes: correct {CLASSES!r} in the"
            " header"
        )
    return names
