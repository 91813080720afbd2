"""The pages of the rooms list the files of their folders, by the first lines of docstrings."""

import ast
from pathlib import Path

import pytest

from tests.support.programs import ROOT


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
        if path.name != "__init__.py" and path.parent.name != "demo":  # named as a folder
            name = path.relative_to(ROOT / "data").as_posix()
            assert f"`{name}`" in page, name
