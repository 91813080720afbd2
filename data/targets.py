"""The label of a sample: a class, several classes, a value, or nothing.

A class is the member `.cls`, an integer, or a field of `.json`. Several classes, or a value, are a
field of `.json`. Wherever a number is wanted, text of a number is one, and so are true and false.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fcmae.run.json_files import parse_json, shortened

Members = Mapping[str, str | bytes]
MOST_BYTES = 2**24  # of a member json, which is parsed whenever its sample is read
CLASSES = 2**24  # there are fewer classes than this: larger numbers are something else
EXACT = 2**53  # floats from here on are no single whole number
LARGEST = torch.finfo(torch.float32).max
LONGEST = 400  # letters of a number that is a text


@runtime_checkable
class Target(Protocol):
    """A kind of label: reads the label of a sample, and knows what stands for a missing one."""

    @property
    def missing(self) -> Any:
        """The label of a sample that has none or is broken: -1 or NaN."""
        ...

    def __call__(self, members: Members) -> Any:
        """Read the label from the members of a sample, or give `missing` if there is none.

        Raises:
            ValueError: The sample has a label, but not of this kind.
        """
        ...


@dataclass(frozen=True)
class Unlabelled:
    """No label: whatever labels samples have are ignored."""

    missing = -1

    def __call__(self, members: Members) -> int:
        return -1


@dataclass(frozen=True)
class ClassTarget:
    """The class of a sample, an integer in its member `.cls` or in the json field `field`."""

    field: str = ""
    missing = -1

    def __call__(self, members: Members) -> int:
        if not self.field:
            encoded = members.get("cls", b"-1")
            text = encoded if isinstance(encoded, str) else encoded.decode(errors="replace")
            number = to_integer(text)
            if number is None or number >= CLASSES:
                raise ValueError(f"cls is {shortened(text)}, not a class number")
            return number
        value = read_field(members, self.field)
        if value is None:
            return self.missing
        number = to_integer(value)
        if number is None or not 0 <= number < CLASSES:
            raise ValueError(f"json field {self.field!r} is {shortened(value)}, not a class number")
        return number


@dataclass(frozen=True)
class ClassText:
    """What the member `.cls` of a sample says, a number or not, as text; empty for none."""

    missing = ""

    def __call__(self, members: Members) -> str:
        encoded = members.get("cls", b"")
        text = encoded if isinstance(encoded, str) else encoded.decode(errors="replace")
        return "" if to_integer(text) == -1 else text.strip()


@dataclass(frozen=True)
class LabelsTarget:
    """The classes of the json field `field`, as a vector of zeros and ones.

    Attributes:
        field: The field, which holds a list, or the text of one.
        classes: The number of classes.
        rows: Whether the list has a zero or one for each class; otherwise it has class numbers.
    """

    field: str
    classes: int
    rows: bool = False

    @property
    def missing(self) -> Float[Tensor, " classes"]:
        return torch.full((self.classes,), torch.nan)

    def __call__(self, members: Members) -> Float[Tensor, " classes"]:
        value = read_field(members, self.field)
        if value is None:
            return self.missing
        listed = as_integers(value)
        if self.rows:
            if not is_row(listed, self.classes):
                raise ValueError(
                    f"json field {self.field!r} is {shortened(value)}, not a row of {self.classes}"
                    " zeros and ones, as the others are"
                )
            return torch.tensor(listed, dtype=torch.float32)
        if listed is None or not set(listed) <= set(range(self.classes)):
            raise ValueError(
                f"json field {self.field!r} is {shortened(value)}, not a list of classes 0 to"
                f" {self.classes - 1}"
            )
        if is_row(listed, self.classes) and len(set(listed)) < len(listed):
            raise ValueError(
                f"json field {self.field!r} is {shortened(value)}, which seems to be a row of zeros"
                " and ones, while others are lists of classes"
            )
        target = torch.zeros(self.classes)
        target[listed] = 1
        return target


@dataclass(frozen=True)
class ValueTarget:
    """The number in the json field `field`."""

    field: str

    @property
    def missing(self) -> Float[Tensor, " 1"]:
        return torch.full((1,), torch.nan)

    def __call__(self, members: Members) -> Float[Tensor, " 1"]:
        value = read_field(members, self.field)
        if value is None:
            return self.missing
        number = to_number(value)
        if number is None or abs(number) > LARGEST:
            raise ValueError(f"json field {self.field!r} is {shortened(value)}, not a number")
        return torch.tensor([number])


def to_number(value: Any) -> float | None:
    """The finite number that a value of JSON, or its text, stands for; None if it is no number."""
    if isinstance(value, bool | int | float | str) and not is_long(value):
        with suppress(ValueError, OverflowError):
            number = float(value)
            return number if math.isfinite(number) else None
    return None


def is_long(value: Any) -> bool:
    """Whether a text is longer than that of any number."""
    return isinstance(value, str) and len(value) > LONGEST


def to_integer(value: Any) -> int | None:
    """The whole number that a value of JSON, or its text, stands for; None if it is none."""
    number = to_number(value)
    if number is None or not number.is_integer() or abs(number) >= EXACT:
        return None
    return int(number)


def as_integers(value: Any) -> list[int] | None:
    """The whole numbers in a list of JSON, or in the text of one; None if it is no such list."""
    if isinstance(value, str):  # as a CSV has it
        with suppress(ValueError):
            value = parse_json(value, "it", list)
    numbers = [to_integer(item) for item in value] if isinstance(value, list) else [None]
    whole = [number for number in numbers if number is not None]
    return whole if len(whole) == len(numbers) else None


def is_row(listed: list[int] | None, classes: int) -> bool:
    """Whether a list has a zero or one for each class."""
    return listed is not None and len(listed) == classes and set(listed) <= {0, 1}


def read_field(members: Members, name: str) -> Any:
    """Read a field of the json member; None if there is no such field.

    Raises:
        ValueError: The member is no JSON.
    """
    return read_record(members).get(name)


def group_of(members: Members, name: str) -> str | None:
    """Read the group that related samples share: a field of the json member, as text, or None.

    Raises:
        ValueError: The member is no JSON.
    """
    record = read_record(members)
    return str(record[name]) if name in record else None


def read_record(members: Members) -> dict[str, Any]:
    """Read the json member, which is empty if there is none.

    Raises:
        ValueError: The member is no JSON.
    """
    content = members.get("json", "{}")
    if len(content) > MOST_BYTES:
        raise ValueError(f"json has {len(content)} bytes, and may have {MOST_BYTES}")
    return parse_json(content, "json", dict)
