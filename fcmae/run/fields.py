"""The fields of a dataclass of dataclasses, and the values of nested mappings, by dotted names."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any, cast

from fcmae.run.yaml_files import leaves


def fields(config: type, prefix: str = "") -> Iterator[tuple[str, Any, "dataclasses.Field[Any]"]]:
    """Iterate over all fields of a dataclass of dataclasses: dotted names, types and the fields."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from fields(cast("type", kind), f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, kind, field


def field_names(config: type) -> Iterator[str]:
    """Iterate over the dotted names of all fields of a dataclass of dataclasses."""
    return (name for name, _, _ in fields(config))


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested mappings into one with dotted keys: `{"a": {"b": 1}}` to `{"a.b": 1}`."""
    return dict(leaves(tree))
