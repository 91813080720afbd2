"""The label of a sample: a class, several classes, a value, or nothing.

A class is the member `.cls`, an integer. Several classes, or a value, are a field of `.json`.
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
    """The class of a sample, an integer in its member `.cls`."""

    missing = -1

    def __call__(self, members: Members) -> int:
        return int(members.get("cls", -1))


@dataclass(frozen=True)
class LabelsTarget:
    """The classes that the json field `field` lists, as a vector of zeros and ones."""

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
    """The number in the json field `field`."""

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
    return json.loads(members.get("json", "{}"))
