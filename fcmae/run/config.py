"""Configs out of YAML recipes and flags, and back; what a program lacks; and how it ends.

A recipe is a saved command line: its keys become `--a.b value` flags in front of the real ones, so
one parser and one set of messages serve both, and a flag wins over the recipe.
"""

import dataclasses
import difflib
import os
import select
import sys
import typing
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import tyro
import yaml
from safetensors import SafetensorError

from fcmae.run.display import DISPLAY, HELP, without_plain
from fcmae.run.ranges import checked
from fcmae.run.recipes import recipe_of
from fcmae.run.secrets import public
from fcmae.run.terminal import line_of, lost_worker, never_fail, say
from fcmae.run.threads import ThreadsConfig, use_threads
from fcmae.run.yaml_files import Texts, leaves, parse_yaml, read_yaml

T = TypeVar("T")
# errors that a user can cause, and that one line explains
EXPECTED = (OSError, ValueError, FloatingPointError, ModuleNotFoundError, SafetensorError)
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
        ValueError: a number is out of its range; or see `recipe_flags`.
        OSError: the recipe cannot be read.
        SystemExit: `config` lacks a flag, or a value has the wrong type; tyro prints which.
    """
    flags = list(argv)
    recipe = recipe_of(flags[0]) if flags else None
    if recipe is not None:
        flags = recipe_flags(recipe, config) + flags[1:]

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


def recipe_flags(path: Path, config: type) -> list[str]:
    """Turn a recipe into the flags that it stands for.

    Raises:
        ValueError: the recipe is no mapping, or has a key twice or one that `config` lacks, or a
            value that a command line cannot hold.
        OSError: the recipe cannot be read.
    """
    known = {name: kind for name, kind, _ in fields(config)}
    flags: dict[str, list[str]] = {}
    for key, value in leaves(read_yaml(path, Texts)):
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


def field_names(config: type) -> Iterator[str]:
    """Iterate over the dotted names of all fields of a dataclass of dataclasses."""
    return (name for name, _, _ in fields(config))


def fields(config: type, prefix: str = "") -> Iterator[tuple[str, Any, "dataclasses.Field[Any]"]]:
    """Iterate over all fields of a dataclass of dataclasses: dotted names, types and the fields."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from fields(cast("type", kind), f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, kind, field


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested mappings into one with dotted keys: `{"a": {"b": 1}}` to `{"a.b": 1}`."""
    return dict(leaves(tree))


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


@contextmanager
def extra(name: str, what: str) -> Generator[None]:
    """Say which extra brings a library, where an import inside this context does not find it.

    Args:
        name: the extra in pyproject.toml.
        what: the beginning of a sentence on what cannot be done without, such as "TIFF images
            need".

    Raises:
        ModuleNotFoundError: a library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"{what} the extra: pip install 'fcmae[{name}]'"
        raise ModuleNotFoundError(message) from error


def run_program(main: Callable[[Sequence[str]], object]) -> None:
    """Run the `main` of a program on the arguments of the command line.

    An error out of `EXPECTED`, or a lost data worker, ends in one line on standard error and exit
    status 1; `python -X dev PROGRAM` shows its traceback. If nobody reads standard output any more,
    as after `| head`, the program ends silently; if its disk is full, with one more such line.
    Passwords and signatures of URLs are taken out of `sys.argv`, which trackers and others record.
    All programs have the flag `--plain`, which is taken out of the arguments.
    """
    arguments = sys.argv[1:]
    sys.argv[1:] = map(public, arguments)
    never_fail()
    use_threads("auto")  # before anything imports torch
    arguments = without_plain(arguments)
    try:
        with DISPLAY.closed_at_end():
            main(arguments)
        flush_output()
    except SystemExit as end:
        if not end.code and {"-h", "--help"}.intersection(arguments):
            with suppress(BrokenPipeError):
                say(*HELP)
        raise
    except Exception as error:
        if not isinstance(error, EXPECTED) and not lost_worker(error):
            raise
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            sys.exit(1)
        if sys.flags.dev_mode:
            raise
        sys.exit(f"error: {line_of(error)}")
    except KeyboardInterrupt:
        say("interrupted", error=True)
        sys.exit(130)  # 128 + SIGINT
    finally:
        with suppress(OSError):  # the error before it, or the signal, says how the program ended
            flush_output()


def reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    output = select.poll()
    output.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def flush_output() -> None:
    """Flush standard output, or close it if nobody reads it any more or it cannot be written.

    Otherwise Python would flush it when it ends, and complain. Source: the note on SIGPIPE in the
    documentation of the module `signal`.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            why = f"standard output cannot be written: {line_of(error)}; the end of it is lost"
            raise OSError(why) from error
