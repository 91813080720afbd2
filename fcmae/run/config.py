"""Configs out of YAML recipes and flags, and back.

A recipe is a saved command line: its keys become `--a.b value` flags in front of the real ones, so
one parser and one set of messages serve both, and a flag wins over the recipe.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import tyro
import yaml

from fcmae.run.fields import fields, flatten
from fcmae.run.first_word import for_another_program, way_out
from fcmae.run.ranges import checked
from fcmae.run.recipes import name_of, recipe_of
from fcmae.run.secrets import public
from fcmae.run.threads import ThreadsConfig, use_threads
from fcmae.run.yaml_files import Texts, leaves, parse_yaml, read_yaml

T = TypeVar("T")
TRUTH = {  # the words of YAML 1.1
    **dict.fromkeys(("true", "yes", "on"), "True"),
    **dict.fromkeys(("false", "no", "off"), "False"),
}


def parse(config: type[T], argv: Sequence[str], *, description: str) -> T:
    """Make a config from `[RECIPE] --flag value ...`; `--help` prints every flag and exits.

    A flag without a value is True if its field may be a bool. The process gets its threads, too,
    which has to be before torch is imported.

    Args:
        config: the dataclass of the config.
        argv: the arguments of the command line.
        description: what `--help` says about the program.

    Raises:
        ValueError: a number is out of its range; the first word is neither a flag nor a recipe,
            where `config` takes words behind flags alone; or see `recipe_flags`.
        OSError: the recipe cannot be read.
        SystemExit: `config` lacks a flag, or a value has the wrong type; tyro prints which.
    """
    flags = list(argv)
    recipe = recipe_of(flags[0]) if flags else None
    if recipe is not None:
        flags = recipe_flags(recipe, config) + flags[1:]
    elif flags and not flags[0].startswith("-") and not takes_words(config):
        word = public(flags[0])
        raise ValueError(f"{word!r} is no recipe; {way_out(word, config)}")

    def made(args: list[str]) -> T:
        return tyro.cli(
            config,
            args=args,
            description=description,
            use_underscores=True,
            config=(tyro.conf.FlagConversionOff,),
        )

    args = list(with_values(flags, config))
    shown = [public(arg) for arg in args]
    if shown != args:
        made(shown)  # tyro shows what it refuses, which are no secrets then
    result = checked(made(args))
    if isinstance(result, ThreadsConfig):
        use_threads(result.threads)
    return result


def takes_words(config: type) -> bool:
    """Whether a program takes words that stand behind no flag, such as `fcmae predict IMAGES`."""
    hints = typing.get_type_hints(config, include_extras=True)
    return any(
        tyro.conf.Positional in getattr(hints[field.name], "__metadata__", ())
        for field in dataclasses.fields(config)
    )


def recipe_flags(path: Path, config: type) -> list[str]:
    """Turn a recipe into the flags that it stands for.

    Raises:
        ValueError: the recipe is no mapping, or has a key twice or one that `config` lacks, or a
            value that a command line cannot hold; or it comes with the programs, for another one.
        OSError: the recipe cannot be read.
    """
    known = {name: kind for name, kind, _ in fields(config)}
    flags: dict[str, list[str]] = {}
    lines = list(leaves(read_yaml(path, Texts)))
    foreign = [key for key, _ in lines if key not in known]
    if foreign and (name := name_of(path)):
        raise ValueError(for_another_program(name, foreign, config))
    for key, value in lines:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise ValueError(f"{path}: no field is called {key}; {hint}")
        if key in flags:
            raise ValueError(f"{path}: {key} comes twice")
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        flags[key] = [text_of(text, known[key], f"{path}: {key}") for text in values]
    return [word for key, values in flags.items() for word in (f"--{key}", *values)]


def flags_of(changes: Mapping[str, Any]) -> list[str]:
    """Turn values by name, nested or dotted, into flags: `{"optim": {"epochs": 5}}`."""
    flags: list[str] = []
    for name, value in flatten(changes).items():
        values = cast("Sequence[Any]", value) if isinstance(value, list | tuple) else [value]
        flags += [f"--{name}", *map(str, values)]
    return flags


def text_of(value: Any, kind: Any, where: str) -> str:
    """A value of a recipe as it stands on a command line.

    Args:
        value: a text, or None.
        kind: the type of its field, which tells whether `yes` is a truth value or a word.
        where: begins the errors.

    Raises:
        ValueError: the value is a list, would be read as a flag, or is none where there has to be
            one.
    """
    if value is None and type(None) not in typing.get_args(kind):
        raise ValueError(f"{where} has no value: give one, or leave the line out")
    if isinstance(value, list | dict):
        raise ValueError(f"{where} has a list within a list")
    text = str(value)
    if text.startswith("--"):
        raise ValueError(f"{where}: {text} would be read as a flag")
    return TRUTH.get(text.lower(), text) if is_switch(kind) else text


def with_values(flags: Sequence[str], config: type) -> Iterator[str]:
    """Add `True` to flags of bools without a value: `--dry_run` becomes `--dry_run True`."""
    switches = {f"__{name}" for name, kind, _ in fields(config) if is_switch(kind)}
    for flag, following in zip(flags, [*flags, "--"][1:], strict=True):
        yield flag
        if flag.replace("-", "_") in switches and following.startswith("--"):
            yield "True"


def is_switch(kind: Any) -> bool:
    """Whether the values of a field are True and False, and perhaps words beside them."""
    return kind is bool or bool in typing.get_args(kind)


def to_tree(config: Any) -> dict[str, Any]:
    """Turn a config into plain dictionaries, lists and values, as YAML holds them."""
    return parse_yaml(to_yaml(config), "the config")


def to_yaml(config: Any) -> str:
    """Write a config as a recipe, which `parse` reads back to an equal config."""
    return yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False)


def plain(value: Any) -> Any:
    """Turn tuples into lists and paths into text, as YAML holds them, and hide secrets of URLs."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in cast("Sequence[Any]", value)]
    return public(str(value)) if isinstance(value, Path | str) else value


def completed(
    tree: Mapping[str, Any], config: type, told: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Complete a config that was written before some fields of its dataclass existed.

    Args:
        tree: the written config, as `to_tree` gives it.
        config: the dataclass.
        told: what fields stand for that are None or auto, by dotted keys.

    Returns:
        The config with dotted keys, and with the default of each field that it does not have: what
        the fields stand for today is what their defaults do.
    """
    whole = dict(defaults(config)) | plain(flatten(tree))  # secrets were written once, too
    return whole | {
        key: plain(v) for key, v in (told or {}).items() if whole[key] in (None, "auto")
    }


def defaults(config: type) -> Iterator[tuple[str, Any]]:
    """Iterate over the dotted names and the default values of all fields that have a default."""
    for name, _, field in fields(config):
        if field.default is not dataclasses.MISSING:
            yield name, plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            yield name, plain(field.default_factory())


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], ignore: tuple[str, ...] = ()
) -> list[str]:
    """Compare two configs, as `to_tree` gives them.

    Args:
        old: the one config.
        new: the other config.
        ignore: fields that may differ, and sections, whose names end in a dot, such as `run.`.

    Returns:
        A line `field: old -> new` for each field that differs.
    """
    sections = tuple(name for name in ignore if name.endswith("."))
    before = flatten(old)
    after = flatten(new)
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key not in ignore and not key.startswith(sections)
    ]
