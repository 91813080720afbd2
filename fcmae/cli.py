"""`fcmae COMMAND ...`: a door to all programs, and nothing more.

    fcmae                       lists the commands, in the order in which one needs them
    fcmae COMMAND --help        lists the flags of one
    fcmae COMMAND --plain       prints plain lines, as in a pipe, in place of bars and drawn tables
    fcmae completion bash       prints a script that completes them; also zsh and fish

A command is a program of the checkout: `fcmae knn ...` does what `python -m finetune.knn ...` does,
bit by bit. In several processes: `accelerate launch -m fcmae COMMAND ...`.
"""

import difflib
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Union

from fcmae import __version__
from fcmae.run.program import run_program
from fcmae.run.recipes import PROGRAMS
from fcmae.run.secrets import public
from fcmae.run.terminal import say


@dataclass(frozen=True)
class Command:
    """A program behind the door."""

    module: str
    """The module, which has a function `main` of the arguments."""
    config: str
    """What the program parses its arguments into, for completion: a name in the module."""
    about: str
    """One line on what it does."""
    first: tuple[str, ...] = ()
    """Arguments that the program gets before those of the user."""


COMMANDS = {
    "demo": Command("data.sets.demo", "Demo", "tell where the embedded images are, or make them"),
    "glyphs": Command(
        "data.sets.glyphs", "Glyphs", "tell where the embedded glyphs are, or make them"
    ),
    "plan": Command("scripts.plan", "PlanConfig", "write a recipe for your images and hours"),
    "shards make": Command("scripts.make_shards", "MakeShards", "make shards of images"),
    "shards index": Command("data.shards.__main__", "Index", "index shards of others", ("index",)),
    "shards verify": Command("data.shards.__main__", "Verify", "read all of shards", ("verify",)),
    "pretrain": Command("pretrain", "PretrainConfig", "pretrain an encoder without labels"),
    "convert": Command(
        "fcmae.convert", "ConvertConfig", "write weights for timm, its hub, transformers or ONNX"
    ),
    "knn": Command("finetune.knn", "KnnConfig", "classify frozen features by their neighbours"),
    "probe": Command("finetune.linear_probe", "LinearProbeConfig", "train a linear probe on them"),
    "finetune": Command("finetune.train", "TrainConfig", "fine-tune on labelled images"),
    "few-shot": Command("finetune.few_shot", "FewShotConfig", "compare starts on few labels"),
    "segment": Command("finetune.segment", "SegmentConfig", "fine-tune on masks"),
    "predict": Command("finetune.predict", "PredictConfig", "tell the classes of image files"),
    "export": Command("finetune.export", "ExportConfig", "write a segmenter as ONNX"),
    "embed": Command("finetune.embed", "EmbedConfig", "write features of all images as Parquet"),
    "lookup neighbours": Command(
        "finetune.lookup", "Neighbours", "find what looks alike in them", ("neighbours",)
    ),
    "lookup duplicates": Command(
        "finetune.lookup", "Duplicates", "find near-duplicates in them", ("duplicates",)
    ),
    "explore": Command("finetune.explore", "ExploreConfig", "play with a checkpoint in a page"),
    "report": Command("scripts.report", "ReportConfig", "show what runs have come to"),
    "baselines": Command("scripts.baselines", "Baselines", "measure plain baselines to beat"),
    "reproduce": Command("scripts.reproduce", "Reproduce", "make the tables of results again"),
    "lineage": Command(
        "scripts.lineage", "LineageConfig", "train, measure, explain LeNet-5 to ConvNeXt V2"
    ),
    "benchmark": Command("scripts.benchmark", "Benchmark", "measure speed against rivals"),
    "parts": Command("data.sets.parts", "PartsConfig", "make pictures of recurring parts"),
    "scenes": Command("data.sets.scenes", "ScenesConfig", "make synthetic scenes with masks"),
    "elpv": Command("data.sets.elpv", "Elpv", "make shards of photographed solar cells"),
}
SHELLS = ("bash", "zsh", "fish")


def main() -> None:
    """Run the command that the command line names, or list the commands."""
    run_program(enter)


def listing(group: str = "") -> list[str]:
    """List the commands, or those of a group such as "shards ", a line each."""
    return [
        f"    {name:<20}{command.about}"
        for name, command in COMMANDS.items()
        if name.startswith(group)
    ]


def enter(words: Sequence[str]) -> None:
    """Run the program behind a command, or list the commands.

    Args:
        words: the words of the command line after `fcmae`.

    Raises:
        ValueError: there is no such command; the message names the nearest.
    """
    if words[:1] in ([], ["-h"], ["--help"]):
        say(*str(__doc__).splitlines(), *listing())
    elif words[1:] in (["-h"], ["--help"]) and (lines := listing(f"{words[0]} ")):
        say(*lines)
    elif words == ["--version"]:
        say(__version__)
    elif words[0] == "completion":
        print_completion(words[1:])
    else:
        name, rest = split(words)
        # for the usage, and the record of a run's start
        sys.argv = [f"fcmae {name}", *map(public, rest)]
        start(name, rest)


def start(name: str, words: Sequence[str]) -> Any:
    """Run the program of a command in this process, and return what its `main` does.

    Args:
        name: the command, such as "shards make".
        words: its arguments.

    Raises:
        ValueError: a module of this process has the name of one of ours, such as `data`.
    """
    command = COMMANDS[name]
    return module_of(command).main([*command.first, *words])


def module_of(command: Command) -> ModuleType:
    """Import the program of a command.

    Raises:
        ValueError: a module of this process has the name of one of ours, such as `data`.
    """
    for room in ("data", "finetune", "scripts", "pretrain"):
        place = getattr(sys.modules.get(room), "__file__", None)
        if place is not None and not Path(place).is_relative_to(PROGRAMS):
            raise ValueError(
                f"{place} was imported as {room}, which is the name of a package of ours: rename"
                " it, or run the command `fcmae` in a process of its own"
            )
    if str(PROGRAMS) not in sys.path[:1]:
        sys.path.insert(0, str(PROGRAMS))  # first, since `data` is a name that many have
    return importlib.import_module(command.module)


def split(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Split a command line into the name of a command, of one word or two, and its arguments.

    Raises:
        ValueError: there is no such command; the message names the nearest.
    """
    for count in (2, 1):
        name = " ".join(words[:count])
        if name in COMMANDS:
            return name, words[count:]
    group = f"{words[0]} "
    members = [name.removeprefix(group) for name in COMMANDS if name.startswith(group)]
    if members:
        raise ValueError(f"fcmae {words[0]} needs one of these words: {', '.join(members)}")
    typed = " ".join(word for word in words[:2] if not word.startswith("-"))
    close = difflib.get_close_matches(typed, COMMANDS, n=1)
    close = close or difflib.get_close_matches(words[0], COMMANDS, n=1)
    hint = f"did you mean fcmae {close[0]}?" if close else "fcmae alone lists the commands"
    raise ValueError(f"no command is called {words[0]!r}; {hint}")


def print_completion(words: Sequence[str]) -> None:
    """Print a script that makes a shell complete commands and flags, as tyro writes it.

    Raises:
        ValueError: no shell is named, or another one.
    """
    if len(words) != 1 or words[0] not in SHELLS:
        raise ValueError(
            f"fcmae completion {' '.join(words)}: name one of {', '.join(SHELLS)}, as in"
            ' eval "$(fcmae completion bash)"'
        )
    import tyro

    groups: dict[str, dict[str, type]] = {}
    for name, command in COMMANDS.items():
        config = getattr(module_of(command), command.config)
        group, _, member = name.partition(" ")
        groups.setdefault(group, {})[member] = config
    kinds = {
        group: members[""]
        if "" in members
        else make_dataclass(group, [("command", choice(members))])
        for group, members in groups.items()
    }
    flags = ("--tyro-print-completion", words[0])
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff)
    tyro.cli(choice(kinds), prog="fcmae", args=flags, config=config, use_underscores=True)


def choice(kinds: Mapping[str, type]) -> Any:
    """Make the type of one of several subcommands, as tyro understands it."""
    import tyro

    named = (Annotated[kind, tyro.conf.subcommand(name)] for name, kind in kinds.items())
    return Union[tuple(named)]  # noqa: UP007  # of types that are known at run time only
