"""The ranges of numbers that users choose: a part of a field's type, in its help, checked at once.

`rate: Positive = 1.0` is a float above 0 and finite. `checked` looks at every number of a config,
before a program does anything. A number without a range is a fault of ours.
"""

import dataclasses
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Annotated, Any, TypeVar

from tyro.constructors import PrimitiveConstructorSpec

T = TypeVar("T")
LARGEST = 2**53  # whole numbers up to here are floats, too
HUGE = 1e12  # above any rate, length or time, and far from where products overflow


@dataclass(frozen=True, repr=False)
class Range(PrimitiveConstructorSpec[Any]):
    """Between which numbers a field lies, and how tyro shows that."""

    low: int | float = -math.inf
    high: int | float = math.inf
    above: bool = False
    """Whether `low` itself is out."""
    below: bool = False
    """Whether `high` itself is out."""
    interval: bool = False
    """Whether both bounds are said, since both have a meaning: other numbers just have an end."""

    place: str = ""
    """What the number is for, among others of its field, as " for channel 0"."""

    def __repr__(self) -> str:
        return self.metavar  # as messages of tyro have it

    def broken(self, value: int | float) -> str:
        """The rule that a number breaks, as `must be above 0`; empty if it breaks none."""
        if isinstance(value, float) and not math.isfinite(value):
            return "must be a finite number"
        over = value >= self.high if self.below else value > self.high
        under = value <= self.low if self.above else value < self.low
        if (over or under) and self.interval:
            begin, end = "(" if self.above else "[", ")" if self.below else "]"
            return f"must lie in {begin}{self.low:g}, {self.high:g}{end}"
        if under:
            return f"must be {'above' if self.above else 'at least'} {self.low}"
        return f"must be at most {self.high}" if over else ""


def whole(low: int, high: int = LARGEST) -> Range:
    """Whole numbers from `low` to `high`."""
    shown = f"{low}<=INT" if high == LARGEST else f"{low}<=INT<={high}"
    return Range(1, shown, lambda words: int(words[0]), _is_number, _words, low=low, high=high)


def real(
    low: int | float = -math.inf,
    high: int | float = HUGE,
    *,
    above: bool = False,
    below: bool = False,
) -> Range:
    """Finite numbers from `low` to `high`; the bounds are out if `above` and `below` say so."""
    shown = "FLOAT" if low == -math.inf else f"{low:g}{'<' if above else '<='}FLOAT"
    told = high not in (HUGE, math.inf)
    shown += f"{'<' if below else '<='}{high:g}" if told else ""
    bounds: dict[str, Any] = {"low": low, "high": high, "above": above, "below": below}
    bounds["interval"] = told
    return Range(1, shown, lambda words: float(words[0]), _is_number, _words, **bounds)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _words(value: Any) -> list[str]:
    return [str(value)]


Count = Annotated[int, whole(1)]
CountFrom0 = Annotated[int, whole(0)]
Batch = Annotated[int, whole(1, 2**24)]  # what is in memory at a time
Extent = Annotated[int, whole(1, 2**16)]  # sides in pixels, channels
Classes = Annotated[int, whole(1, 2**20)]
Depth = Annotated[int, whole(0, 2**12)]  # layers
DepthFrom1 = Annotated[int, whole(1, 2**12)]
Workers = Annotated[int, whole(0, 2**12)]
WorkersFrom1 = Annotated[int, whole(1, 2**12)]
Stage = Annotated[int, whole(0, 3)]
Port = Annotated[int, whole(0, 2**16 - 1)]
Byte = Annotated[int, whole(0, 255)]
Percent = Annotated[int, whole(1, 100)]
Seed = Annotated[int, whole(0, 2**63 - 1)]  # torch takes no larger one
Real = Annotated[float, real(high=math.inf)]
Positive = Annotated[float, real(0, above=True)]
NotNegative = Annotated[float, real(0, math.inf)]
Length = Annotated[float, real(0)]
Degrees = Annotated[float, real(0, 180)]
Seconds = Annotated[float, real(0, 1e9, above=True)]  # clocks of threads take no more
Share = Annotated[float, real(0, 1)]
ShareAbove0 = Annotated[float, real(0, 1, above=True)]
ShareBelow1 = Annotated[float, real(0, 1, below=True)]
ShareInside = Annotated[float, real(0, 1, above=True, below=True)]


def checked(config: T) -> T:
    """The config, each of whose numbers lies in its range.

    Raises:
        ValueError: one does not; the message has its name, its value and the rule.
    """
    for name, value, bounds in numbers_of(config):
        if rule := bounds.broken(value):
            raise ValueError(f"{name}={value} {rule}{bounds.place}")
    return config


def numbers_of(config: Any, prefix: str = "") -> Iterator[tuple[str, int | float, Range]]:
    """Iterate over the numbers in a config: dotted names, values and ranges.

    Where the metadata of a field say what `each` number is for, such as "channel", ranges have it.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        hint = hints[field.name]
        if dataclasses.is_dataclass(value):
            told = any(getattr(part, "name", None) == "" for part in typing.get_args(hint))
            yield from numbers_of(value, prefix if told else f"{prefix}{field.name}.")
        else:
            each = field.metadata.get("each", "")
            for i, (number, bounds) in enumerate(ranged(hint, value, prefix + field.name)):
                of_this = replace(bounds, place=f" for {each} {i}") if each else bounds
                yield prefix + field.name, number, of_this


def ranged(hint: Any, value: Any, name: str) -> Iterator[tuple[int | float, Range]]:
    """Iterate over the numbers in the value of a field, and their ranges.

    Args:
        hint: the type, whose numbers are `Annotated` with a range.
        value: of this type.
        name: of the field.
    """
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        of_type, *parts = inner
        bounds = [part for part in parts if isinstance(part, Range)]
        if bounds and _is_number(value):
            yield value, bounds[0]
        elif not bounds:
            yield from ranged(of_type, value, name)
    elif typing.get_origin(hint) is tuple:
        if isinstance(value, tuple):
            hints = repeat(inner[0]) if inner[-1] is Ellipsis else inner
            for of_type, part in zip(hints, value, strict=False):
                yield from ranged(of_type, part, name)
    else:
        assert hint not in (int, float), f"{name} has no range: see fcmae/run/ranges.py"
        for arm in inner if typing.get_origin(hint) is not typing.Literal else ():
            yield from ranged(arm, value, name)
