"""YAML of others: read as it is meant, or refused in one line that names file, line and rule."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from fcmae.run.config import parse
from fcmae.run.ranges import Real, whole
from fcmae.run.yaml_files import DEEPEST, MOST_BYTES, parse_yaml, read_yaml

Number = Annotated[int, whole(1, 10**400)]


@dataclass(frozen=True, kw_only=True)
class Config:
    """A config with a field of each type."""

    word: str = "a"
    """A word."""
    maybe: str | None = "a"
    """A word, or none."""
    rate: Real = 1.0
    """A rate."""
    steps: Number = 1
    """A number."""
    flip: bool = True
    """A switch."""
    names: tuple[str, ...] = ()
    """Words."""


def read(tmp_path: Path, text: str | bytes) -> Config:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return parse(Config, [str(path)], description="test")


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 1\nrate: 2\nsteps: 3\n", "line 3: the key 'steps' comes twice"),
        ("a: {b: 1, 'b': 2}", "line 1: the key 'b' comes twice"),
        (BOMB, "there are more than 100000 values"),
        ("names: &a\n- x\n- *a\n", "line 3: the alias *a stands inside of its own anchor"),
        ("names: *a", "line 1: found undefined alias 'a'"),
        ("a: &a\n  <<: *a\n", "line 2: the alias *a stands inside of its own anchor"),
        ("word: !!python/object/apply:os.system [ls]", "line 1: could not determine a constructor"),
        ("steps: !!int x", "line 1: invalid literal for int()"),
        ("flip: !!bool x", "line 1: a value does not fit its tag"),
        ("steps: !!int ''", "line 1: a value does not fit its tag"),
        ("steps: !!set {a, b}", "line 1: could not determine a constructor for the tag"),
        ("\nnames: " + "[" * 10_000, f"line 2: values are nested more than {DEEPEST} levels deep"),
        ("".join(f"{'  ' * i}a:\n" for i in range(200)), "nested more than"),
        ("steps: 1\n1: 2\n", None),
        ("steps: 1\n? [a]\n: 2\n", "line 2: a key is no text: put it in quotes"),
        ("steps: 1\n~: 2\n", "line 2: a key is no text: put it in quotes"),
        ("- 1", "must hold 'field: value' lines, found list"),
        ("", "must hold 'field: value' lines, found NoneType"),
        ("steps: 1\nword: a\0b\n", r"line 2 has the character '\x00'"),
        (b"steps: 1\nword: \xff\n", "is not in UTF-8: line 2"),
        ("steps: 1".encode("utf-16"), "is not in UTF-8: line 1"),
        ('steps: 1\nword: "\\U00110000"\n', "line 2: "),
        ("steps: 1\n---\nsteps: 2\n", "line 2: but found another document"),
        ("steps:", "steps has no value: give one, or leave the line out"),
        ("word: ~", "word has no value: give one, or leave the line out"),
        ("names: [[a, b]]", "names has a list within a list"),
        ("names: [a, --steps, 3]", "names: --steps would be read as a flag"),
        (b"#" * (MOST_BYTES + 1), f"has {MOST_BYTES + 1} bytes, more than {MOST_BYTES}"),
    ],
)
def test_what_no_recipe_should_hold_is_refused(
    tmp_path: Path, text: str | bytes, message: str | None
) -> None:
    with pytest.raises(ValueError, match=r"recipe\.yaml") as error:
        read(tmp_path, text)
    assert (message or "no field is called 1") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("rate: 1e-3", Config(rate=1e-3)),
        ("rate: 1e3", Config(rate=1e3)),
        ("rate: 1.5e-4", Config(rate=1.5e-4)),
        ("steps: 1_000", Config(steps=1000)),
        ("flip: no", Config(flip=False)),
        ("flip: off", Config(flip=False)),
        ("flip: false", Config(flip=False)),
        ("flip: 'True'", Config(flip=True)),
        ("word: no", Config(word="no")),
        ("word: 2024-01-01", Config(word="2024-01-01")),
        ("word: 2001-12-14t21:59:43.10-05:00", Config(word="2001-12-14t21:59:43.10-05:00")),
        ("word: 12:30:45", Config(word="12:30:45")),
        ("word: 0x10", Config(word="0x10")),
        ("word: 010", Config(word="010")),
        ("word: 1.10", Config(word="1.10")),
        ("word: ''", Config(word="")),
        ("maybe: null", Config(maybe=None)),
        ("maybe: ~", Config(maybe=None)),
        ("names: [yes, 1e3, 1:30]", Config(names=("yes", "1e3", "1:30"))),
        ("names: []", Config(names=())),
        ("word: &w a b\nmaybe: *w", Config(word="a b", maybe="a b")),
        ("\ufeffsteps: 3", Config(steps=3)),
        ("steps: " + "9" * 400, Config(steps=int("9" * 400))),
    ],
)
def test_values_are_what_they_look_like(tmp_path: Path, text: str, config: Config) -> None:
    assert read(tmp_path, text) == config


def test_a_field_with_dots_and_its_section_are_one(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Outer:
        a: Config

    path = tmp_path / "recipe.yaml"
    path.write_text("a: {steps: 1}\na.steps: 2\n")
    with pytest.raises(ValueError, match=r"recipe\.yaml: a\.steps comes twice"):
        parse(Outer, [str(path)], description="test")


def test_mappings_may_be_merged_and_shared(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("a: &a {x: 1, y: yes}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, z: 1.5}\n")
    merged = {"x": 2, "y": True, "z": 1.5}
    assert read_yaml(path) == {"a": {"x": 1, "y": True}, "b": {"x": 2, "y": True}, "c": merged}


def test_a_number_of_thousands_of_digits_is_named() -> None:
    with pytest.raises(ValueError, match=r"^it is no YAML: line 2: Exceeds the limit"):
        parse_yaml("a: 1\nb: " + "9" * 5000, "it")
