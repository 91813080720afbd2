"""JSON of others: read within bounds, each key once, and refused in a line that names its place."""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

MOST_BYTES = 2**26  # of a file; one with the places of all samples may have more
NAMES: Mapping[type, str] = {dict: "an object", list: "a list", str: "a text", object: "a value"}
WORDS = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}
WORDS |= {NoneType: "null"}
SHOWN = 80  # letters of a wrong value that a message shows
T = TypeVar("T")


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its keys and values.

    Raises:
        ValueError: a key comes twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set[str]()
        twin = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twin!r} comes twice")
    return found


def parse_json(
    content: str | bytes,
    where: str,
    kind: type[T],
    made: Callable[[list[tuple[str, Any]]], object] = each_once,
) -> T:
    """Parse JSON in UTF-8, -16 or -32, with or without a byte order mark.

    Values in it are not checked. NaN and infinities, which JSON lacks, are numbers: many programs
    write them.

    Args:
        content: the JSON.
        where: what it is, for errors, such as its path.
        kind: `dict` or `list`, which it has to be; `object` for any.
        made: makes an object of its keys and values, and refuses a key that comes twice.

    Raises:
        ValueError: it is no JSON or of another kind, has a key twice, is nested too deeply, or has
            a number of thousands of digits. The message begins with `where`.
    """
    try:
        if isinstance(content, bytes):
            content = content.decode(json.detect_encoding(content))
        value: object = json.loads(content.removeprefix("\ufeff"), object_pairs_hook=made)
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deeply for JSON that is read") from error
    except ValueError as error:
        page = "a page of HTML, and " if is_page(content) else ""
        reason = str(error).partition(";")[0]  # Python's advice on long numbers is for programs
        raise ValueError(f"{where} is {page}no JSON ({reason})") from error
    if not isinstance(value, kind):
        found = next((name for type, name in NAMES.items() if isinstance(value, type)), "a value")
        raise ValueError(f"{where} is {found} of JSON, and not {NAMES[kind]}")
    return value


def read_json(path: Path, kind: type[T], most: int = MOST_BYTES) -> T:
    """Read a file of JSON, as `parse_json` does.

    Args:
        path: the file.
        kind: `dict` or `list`.
        most: the number of bytes that it may have.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is too large; or see `parse_json`.
    """
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"{path} has {size} bytes, and JSON that is read has {most} at most")
    return parse_json(path.read_bytes(), str(path), kind)


def is_page(content: str | bytes) -> bool:
    """Whether a text is a page of HTML, which servers send in place of a file."""
    return content.lstrip()[:1] in ("<", b"<")


def field_of(fields: Mapping[str, object], name: str, hint: Any) -> Any:
    """The value of a field, whose lists become tuples.

    Args:
        fields: an object of JSON.
        name: the field.
        hint: the type of a field of a dataclass, such as `tuple[float, ...] | None`. Numbers have
            to be finite, and whole ones below 2^63.

    Raises:
        ValueError: there is no such field, and it may not be None; or it has another value.
    """
    try:
        return typed(fields.get(name), hint)
    except ValueError as error:
        told = "is missing" if name not in fields else f"is {error}"
        raise ValueError(f"its field {name!r} {told}") from error


def as_dataclass(kind: type[T], value: object) -> T:
    """Make a dataclass of an object of JSON, of which each field has its type.

    Raises:
        ValueError: it is no object, lacks a field, or has other fields or values.
    """
    given = as_object(value)
    hints = get_type_hints(kind)
    known = dataclasses.fields(cast("Any", kind))
    if unknown := given.keys() - {field.name for field in known}:
        raise ValueError(f"it has the unknown field {min(unknown)!r}")
    needed = [
        field.name
        for field in known
        if field.name in given or field.default is field.default_factory is dataclasses.MISSING
    ]
    return kind(**{name: field_of(given, name, hints[name]) for name in needed})


def as_object(value: object) -> dict[str, object]:
    """A value that has to be an object of JSON.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, dict):
        raise ValueError("it is no object of JSON")
    return cast("dict[str, object]", value)


def typed(value: object, hint: Any) -> Any:
    """A value of JSON that has to be of a type; lists become tuples. See `field_of`."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        try:
            return as_dataclass(cast("Any", hint), value)
        except ValueError as error:
            raise ValueError(f"damaged ({error})") from error
    if origin in (Union, UnionType):
        for one in inner:
            with suppress(ValueError):
                return typed(value, one)
    elif origin is tuple and isinstance(value, list):
        values = cast("list[object]", value)
        hints = inner[:1] * len(values) if inner[-1] is Ellipsis else inner
        if len(hints) == len(values):
            return tuple(map(typed, values, hints))
    elif origin is dict and isinstance(value, dict):
        return {key: typed(one, inner[1]) for key, one in cast("dict[str, object]", value).items()}
    elif (origin is Literal and any(value is one or value == one for one in inner)) or (
        isinstance(value, str if hint is str else bool if hint is bool else NoneType)
        and hint in (str, bool, NoneType)
    ):
        return value
    elif hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        most = 2**63 - 1 if hint is int else sys.float_info.max
        if (hint is float or isinstance(value, int)) and abs(value) <= most:
            return hint(value)
    raise ValueError(f"{shortened(value)}, and not {in_words(hint)}")


def in_words(hint: Any) -> str:
    """A type as a message names it."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(in_words, get_args(hint)))
    if get_origin(hint) is dict:
        return f"an object of {in_words(get_args(hint)[1])}"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is tuple:
        count = "" if get_args(hint)[-1] is Ellipsis else f"{len(get_args(hint))} times "
        return f"a list of {count}{in_words(get_args(hint)[0])}"
    return WORDS[hint]


def shortened(value: object) -> str:
    """A value as a message shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
