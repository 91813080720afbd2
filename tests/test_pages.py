"""The pages are true: links lead somewhere, commands are understood, tables name their files."""

import ast
import importlib
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import tyro

from data.config import Encoding
from fcmae.cli import COMMANDS, SHELLS, split
from fcmae.run.fields import field_names
from fcmae.run.ranges import checked
from fcmae.run.recipes import PROGRAMS
from finetune.planning.config import ImagesPlan
from tests.support.pages import (
    CODE,
    PAGES,
    anchors,
    blocks,
    links,
    names,
    prose,
    typed,
    words_of,
)
from tests.support.programs import ROOT

# flags of all programs, of accelerate, Slurm, our scripts, tar and docker
OTHERS = {
    *("help", "plain", "config_file", "num_processes", "signal", "nodes", "all", "steps", "kills"),
    *("sort", "sparse", "dereference", "hard_dereference", "concatenate", "shm_size"),
}


def first_line(path: Path) -> str:
    """The first line of a module's docstring, as a table's cell has it."""
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text, f"{path} has no docstring"
    return text.splitlines()[0].rstrip(".")


@pytest.mark.parametrize("room", ["fcmae", "finetune"])
def test_the_page_of_a_room_says_what_each_of_its_files_is(room: str) -> None:
    page = (ROOT / room / "README.md").read_text()
    for path in sorted((ROOT / room).rglob("*.py")):
        if path.name != "__init__.py":
            name = path.relative_to(ROOT / room).as_posix()
            assert f"| `{name}` | {first_line(path)} |" in page, name


def test_the_page_of_data_names_each_of_its_files() -> None:
    page = (ROOT / "data" / "README.md").read_text()
    for path in sorted((ROOT / "data").rglob("*.py")):
        # the embedded sets are named as folders
        if path.name != "__init__.py" and path.parent.name not in ("demo", "glyphs"):
            name = path.relative_to(ROOT / "data").as_posix()
            assert f"`{name}`" in page, name


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    found = list(links(page))
    assert found
    for file, anchor in found:
        assert file.exists(), file
        assert not anchor or anchor in anchors(str(file.relative_to(ROOT))), (file.name, anchor)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_a_page_begins_with_links_to_all_that_follows(page: str) -> None:
    text = prose(page)
    contents = text[: text.index("\n## ")]
    for anchor in anchors(page, "##"):
        assert f"](#{anchor})" in contents
    assert len(set(anchors(page))) == len(anchors(page))


class Understood(Exception):
    """The parser of a program has understood a command line."""


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Sequence[str]], None]:
    """Let programs stop once they have parsed their arguments, in a folder with recipes."""

    def stopping(real: Callable[..., Any]) -> Callable[..., Any]:
        def stop(*args: Any, **options: Any) -> Any:
            checked(real(*args, **options))
            raise Understood

        return stop

    for module, name in ((tyro, "cli"), (tyro.extras, "subcommand_cli_from_dict")):
        monkeypatch.setattr(module, name, stopping(getattr(module, name)))
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    for recipe in ("RECIPE.yaml", "OTHER.yaml", "mine.yaml"):
        shutil.copy(ROOT / "scripts/recipes/demo.yaml", tmp_path / recipe)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def parsed(words: Sequence[str]) -> None:
        module, arguments = program_of(words)
        with pytest.raises(Understood):
            importlib.import_module(module).main(arguments)

    return parsed


@pytest.mark.parametrize("page", PAGES)
def test_every_program_of_the_text_exists(page: str) -> None:
    for words in names(page):
        module, _ = program_of(words)
        assert callable(importlib.import_module(module).main)


def program_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """The module that a command runs, and its arguments."""
    name, *rest = words
    if name == "accelerate":
        assert rest[0] == "launch"
        at = next(i for i, word in enumerate(rest) if word == "-m" or word.endswith(".py"))
        return program_of(["python", *rest[at:]])
    if name == "python" and rest[:2] == ["-m", "fcmae"]:
        return program_of(["fcmae", *rest[2:]])
    if name == "fcmae":
        command, arguments = split(rest)
        return COMMANDS[command].module, [*COMMANDS[command].first, *arguments]
    assert name == "python", words
    if rest[0] == "-m":
        module = f"{rest[1]}.__main__" if (ROOT / rest[1].replace(".", "/")).is_dir() else rest[1]
        return module, rest[2:]
    assert (PROGRAMS / rest[0]).is_file(), rest[0]
    return rest[0].removesuffix(".py").replace("/", "."), rest[1:]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_understood(
    page: str, parse: Callable[[Sequence[str]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    ours = ("fcmae", "python", "accelerate")
    for where, words in typed(page):
        if words[0] not in ours or words[1:3] == ["-m", "pytest"]:
            continue
        if words[1] == "completion":
            assert words[2] in SHELLS
            continue
        try:
            parse(words)
        except (SystemExit, ValueError, OSError) as error:
            pytest.fail(f"{where}: {error}\n{capsys.readouterr().err}")


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_in_the_text_exists(page: str) -> None:
    ours = set(field_names(ImagesPlan))  # beside that of `fcmae plan RECIPE`
    for command in COMMANDS.values():
        config = getattr(importlib.import_module(command.module), command.config)
        assert isinstance(config, type)
        assert is_dataclass(config)
        ours |= {*field_names(config)} | {field.name for field in fields(config)}
    ours |= {field.name for field in fields(Encoding)}  # without a prefix in `fcmae shards make`
    for code in CODE.findall(prose(page)):
        for flag in re.findall(r"(?<![\w-])--([a-z][a-z0-9_.-]*[a-z0-9_])", code):
            name = flag.replace("-", "_")
            group = code.endswith("*") and any(known.startswith(name) for known in ours)
            assert group or name in ours | OTHERS, (code, flag)


@pytest.mark.parametrize("page", PAGES)
def test_every_script_and_extra_of_the_text_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    for name in re.findall(r"(?<![\w/.])scripts/[\w/]+\.(?:yaml|sh|py)", text):
        assert (ROOT / name).is_file(), name
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for typed_in, told in re.findall(r"'\.\[([\w,]+)\]'|extra `(\w+)`", text):
        assert set((typed_in or told).split(",")) <= set(known)


def test_commands_of_pages_are_read_and_none_is_run(tmp_path: Path) -> None:
    script = f"touch {tmp_path}/a; timeout 9 fcmae plan x; timeout 9 touch {tmp_path}/b"
    assert words_of(script) == [["fcmae", "plan", "x"]]
    assert not any(tmp_path.iterdir())


def test_commands_are_found_in_pages() -> None:
    """What the other tests look at is there."""
    commands = [words for page in PAGES for _, words in typed(page)]
    assert ["fcmae", "pretrain", "mine.yaml"] in commands
    assert sum(words[0] == "fcmae" for words in commands) > 40
    array = next(words for words in commands if words[1:3] == ["knn", "--weights"])
    assert "datasets/mine/train-*.tar" in array
    assert all(block.text for page in PAGES for block in blocks(page, "bash"))
