"""JSON of others: read as it is meant, or refused in one line that names its place."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from fcmae.run.json_files import as_dataclass, parse_json, read_json


@dataclass(frozen=True, kw_only=True)
class Part:
    """A dataclass within another."""

    weight: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Told:
    """A dataclass with a field of each type."""

    name: str
    sides: tuple[int, int]
    mean: tuple[float, ...] = ()
    kind: Literal["a", "b"] = "a"
    rows: bool = False
    nodata: float | None = None
    texts: dict[str, str] = field(default_factory=dict)
    part: Part = field(default_factory=Part)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", r"is no JSON \(Expecting value"),
        ('{"a": ', r"is no JSON \(Expecting value"),
        (b"\xff{}", "is no JSON .*codec can't decode byte 0xff"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"a":' * 100_000, "is nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", r"is no JSON \(Exceeds the limit .* 5000 digits\)"),
        ('{"a": 1, "a": 2}', "is no JSON .the key 'a' comes twice"),
        ("\n<!doctype html>", "is a page of HTML, and no JSON"),
        ("null", "is a value of JSON, and not an object"),
        ("[1]", "is a list of JSON, and not an object"),
        ('"a"', "is a text of JSON, and not an object"),
    ],
)
def test_what_is_no_object_is_refused_in_a_line(
    content: str | bytes, why: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"a\.json {why}") as refused:
        read_json(path, dict)
    assert str(refused.value).isprintable()


def test_a_file_has_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read_json(path, dict, 8) == {"a": 1}
    with pytest.raises(
        ValueError, match=r"a\.json has 8 bytes, and JSON that is read has 7 at most"
    ):
        read_json(path, dict, 7)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
def test_every_encoding_of_unicode_is_read(encoding: str) -> None:
    assert parse_json('{"a": "é"}'.encode(encoding), "it", dict) == {"a": "é"}
    assert parse_json("\ufeff[]", "it", list) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": 7}, "'name' is 7, and not a text"),
        ({"name": None}, "'name' is None, and not a text"),
        ({"sides": [1]}, r"'sides' is \[1\], and not a list of 2 times a whole number"),
        ({"sides": [1, True]}, "'sides' is True, and not a whole number"),
        ({"sides": [1, 2.0]}, "'sides' is 2.0, and not a whole number"),
        ({"sides": [1, 2**63]}, "and not a whole number"),
        ({"sides": 5}, "'sides' is 5, and not a list"),
        ({"mean": [float("nan")]}, "'mean' is nan, and not a finite number"),
        ({"mean": [float("inf")]}, "'mean' is inf, and not a finite number"),
        ({"mean": [10**400]}, r"'mean' is 1000\d*\.\.\., and not a finite number"),
        ({"kind": "c"}, "'kind' is 'c', and not one of a, b"),
        ({"kind": []}, r"'kind' is \[\], and not one of a, b"),
        ({"rows": 1}, "'rows' is 1, and not true or false"),
        ({"nodata": "0"}, "'nodata' is '0', and not a finite number or null"),
        ({"texts": {"a": 1}}, "'texts' is 1, and not a text"),
        ({"part": 3}, r"'part' is damaged \(it is no object of JSON\)"),
        ({"part": {"w": 3}}, r"'part' is damaged \(it has the unknown field 'w'\)"),
        ({"other": 1}, "it has the unknown field 'other'"),
    ],
)
def test_fields_have_the_types_of_their_dataclass(change: dict[str, object], why: str) -> None:
    good = {"name": "n", "sides": [1, 2], "mean": [0, 0.5], "texts": {"a": "b"}}
    assert as_dataclass(Told, good) == Told(name="n", sides=(1, 2), mean=(0, 0.5), texts={"a": "b"})
    assert as_dataclass(Told, good | {"part": {"weight": 2}}).part == Part(weight=2.0)
    with pytest.raises(ValueError, match=why):
        as_dataclass(Told, good | change)
    with pytest.raises(ValueError, match="its field 'sides' is missing"):
        as_dataclass(Told, {"name": "n"})
    with pytest.raises(ValueError, match="it is no object"):
        as_dataclass(Told, [good])
