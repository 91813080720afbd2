"""What others have named prints as itself, in one line, and drives no terminal."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fcmae.run.terminal import beside, line_of, say, told_apart, visible
from tests.support.programs import ROOT

SAFE = [
    "[/red]",
    "[bold]",
    r"$\foo$",
    "cat [kitten]",
    "😀 👩‍👩‍👧",
    "naïve",
    "日本語\u3000語",
    r"a\nb",
]
DRIVING = {
    "\x1b[31mred\x1b[0m": r"\x1b[31mred\x1b[0m",
    "a\nb": r"a\nb",
    "a\rb": r"a\rb",
    "a\tb": r"a\tb",
    "a\0b": r"a\x00b",
    "a\x9b31mb": r"a\x9b31mb",
    "\u202egpj.exe": r"\u202egpj.exe",
    "a\u2028b": r"a\u2028b",
    "\udcffa": r"\udcffa",
}


@pytest.mark.parametrize("name", SAFE)
def test_a_name_that_drives_nothing_stays_as_it_is(name: str) -> None:
    assert visible(name) == name


@pytest.mark.parametrize("name", DRIVING)
def test_what_drives_a_terminal_is_written_out(name: str) -> None:
    assert visible(name) == DRIVING[name]
    assert visible(name).encode().decode().isprintable()


def test_a_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\nb", Path("c\x1bd"))
    say("e\rf", error=True)
    told = capsys.readouterr()
    assert told.out == "a\\nb\nc\\x1bd\n"
    assert told.err == "e\\rf\n"


def test_errors_are_one_line_with_names_as_they_are() -> None:
    assert line_of(ValueError("x/a\nb: no image")) == r"x/a\nb: no image"
    code = '  File "a.py", line 1, in f\n    raise ValueError\n    ^^^^^\n'
    worker = f"Caught ValueError in worker.\nOriginal Traceback (most recent call last):\n{code}"
    assert line_of(ValueError(f"{worker}ValueError: x/a\nb: no image")) == r"x/a\nb: no image"


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        (["cat", "dog", "cat"], ["cat (0)", "dog", "cat (2)"]),
        (["caf\u00e9", "cafe\u0301"], ["caf\u00e9 (0)", "cafe\u0301 (1)"]),
        (["a\nb", "a\\nb"], ["a\nb (0)", "a\\nb (1)"]),
        (["cat", "cat", "cat (0)"], ["cat (0)", "cat (1)", "cat (0) (2)"]),
    ],
)
def test_two_classes_of_one_name_stay_two(names: list[str], told: list[str]) -> None:
    assert told_apart(names) == told


def test_what_nothing_depends_on_fails_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with beside(Path("p.png"), Path("o.json")):
        raise MemoryError
    with beside(Path("p.png"), Path("o.json")):
        raise ValueError("\\foo$\n^\nParseFatalException: no\x1b")
    assert capsys.readouterr().out == (
        "p.png cannot be made (MemoryError: MemoryError); o.json has the numbers\n"
        r"p.png cannot be made (ValueError: \foo$\n^\nParseFatalException: no\x1b);"
        " o.json has the numbers\n"
    )


def test_all_that_is_printed_goes_through_one_door() -> None:
    """Texts of others have to pass `visible`, and so nobody prints by other means."""
    for path in (
        p for room in ("fcmae", "data", "finetune", "scripts") for p in (ROOT / room).rglob("*.py")
    ):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call):
                continue
            place = f"{path.relative_to(ROOT)}:{call.lineno}"
            words = {word.arg: ast.unparse(word.value) for word in call.keywords}
            target = words.get("file", "sys.stdout")
            name = ast.unparse(call.func)
            if path.name not in ("display.py", "accelerator.py"):
                assert name != "print" or not target.startswith("sys."), place
                assert name not in ("Accelerator", "sys.stdout.write", "sys.stderr.write"), place
                assert "print" not in map(ast.unparse, call.args), place


def test_letters_that_an_encoding_lacks_end_no_program() -> None:
    code = "from fcmae.run.program import run_program; run_program(lambda argv: print(*argv))"
    done = subprocess.run(
        [sys.executable, "-c", code, "caf\u00e9 \udcff"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"caf\\xe9 \\udcff\n", b"")
