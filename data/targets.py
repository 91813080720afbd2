"""What a sample is labelled with: a class, several classes, a value, or nothing.

A class is the `.cls` member, an integer; several classes or a value are a field of the `.json` one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Members = Mapping[str, str | bytes]


@runtime_checkable
class Target(Protocol):
    """A sample's label out of its members, and what stands for one that is not there.

    Raises:
        ValueError: the label is there but not of this kind.
    """

    @property
    def missing(self) -> Any:
        """-1, or NaN: the label of a sample that has none or is broken."""
        ...

    def __call__(self, members: Members) -> Any: ...


@dataclass(frozen=True)
class Unlabelled:
    """Labels are not looked at."""

    missing = -1

    def __call__(self, members: Members) -> int:
        return -1


@dataclass(frozen=True)
class ClassTarget:
    """The class in `.cls`."""

    missing = -1

    def __call__(self, members: Members) -> int:
        return int(members.get("cls", -1))


@dataclass(frozen=True)
class LabelsTarget:
    """Those classes, of `classes`, that json field `field` lists; as zeros and ones."""

    field: str
    classes: int

    @property
    def missing(self) -> Float[Tensor, " classes"]:
        return torch.full((self.classes,), torch.nan)

    def __call__(self, members: Members) -> Float[Tensor, " classes"]:
        listed = read_field(members, self.field)
        if listed is None:
            return self.missing
        if not isinstance(listed, list) or not all(
            type(label) is int and 0 <= label < self.classes for label in listed
        ):
            raise ValueError(
                f"json field {self.field!r} is {listed!r}, not a list of classes 0 to"
                f" {self.classes - 1}"
            )
        target = torch.zeros(self.classes)
        target[listed] = 1
        return target


@dataclass(frozen=True)
class ValueTarget:
    """The number in json field `field`."""

    field: str

    @property
    def missing(self) -> Float[Tensor, " 1"]:
        return torch.full((1,), torch.nan)

    def __call__(self, members: Members) -> Float[Tensor, " 1"]:
        value = read_field(members, self.field)
        if value is None:
            return self.missing
        if type(value) not in (int, float):
            raise ValueError(f"json field {self.field!r} is {value!r}, not a number")
        return torch.tensor([float(value)])


def read_field(members: Members, name: str) -> Any:
    """A field of the json member; None where there is none."""
    return read_record(members).get(name)


def group_of(members: Members, name: str) -> str | None:
    """A field of the json member as text, which related samples share; None where there is none."""
    record = read_record(members)
    return str(record[name]) if name in record else None


def read_record(members: Members) -> dict[str, Any]:
    """The json member, empty where there is none.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(members.get("json", "{}"))
