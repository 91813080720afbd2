"""The pages that people read: their blocks of code, links, headings, and the commands in them."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs import ROOT

PAGES = (
    *("README.md", "CONTRIBUTING.md", "data/README.md", "fcmae/README.md", "finetune/README.md"),
    *("scripts/launch/README.md", "scripts/recipes/README.md", "scripts/recipes/LOG.md"),
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
PROGRAM = re.compile(r"fcmae [a-z]|python (-m |\S+\.py)|accelerate launch ")
NAME = re.compile(r"(fcmae (shards |lookup )?[a-z-]+|python (-m )?[\w./]+)( --help)?")
# what a command line of a page may begin with; bash hands its words over and runs nothing
STAND_INS = ("fcmae", "python", "accelerate", "pip", "git", "cd", "sbatch", "kubectl", "scancel")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    """The path of the page."""
    line: int
    """The line of its fence, from 1."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str, language: str) -> list[Block]:
    """The blocks of a page that are in a language."""
    text = (ROOT / page).read_text()
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in FENCE.finditer(text)
        if found[1] == language
    ]


def prose(page: str) -> str:
    """The text of a page without its blocks."""
    return FENCE.sub("", (ROOT / page).read_text())


def anchors(page: str, level: str = "#+") -> list[str]:
    """The anchors of a page's headings, as GitHub makes them; `level` is an expression of `#`."""
    titles = re.findall(rf"(?m)^{level} (.+)$", prose(page))
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def links(page: str) -> Iterator[tuple[Path, str]]:
    """The links of a page to files of the checkout: the file, and the anchor or nothing."""
    for target in LINK.findall(prose(page)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            file = (ROOT / page).parent / path if path else ROOT / page
            yield file.resolve(), anchor


def typed(page: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of a page as words, and where each is: those of blocks, and those in the text.

    Bash itself expands variables, arrays and quotes. A program's name alone is no command.
    """
    for block in blocks(page, "bash"):
        yield from ((str(block), words) for words in words_of(block.text))
    for code in CODE.findall(prose(page)):
        if PROGRAM.match(code) and not NAME.fullmatch(code) and not code.endswith("..."):
            yield f"{page}: {code}", shlex.split(code)


def names(page: str) -> Iterator[list[str]]:
    """The programs that the text of a page names without arguments, as words."""
    for code in CODE.findall(prose(page)):
        if NAME.fullmatch(code):
            yield shlex.split(code)


def words_of(script: str) -> list[list[str]]:
    """The words of each command of a script, of which bash runs none: it finds no program."""
    stand_ins = "".join(
        f'{name}() {{ printf "%s\\0" {name} "$@" >&3; printf "\\n\\0" >&3; }}\n'
        for name in STAND_INS
    )
    stand_ins += 'timeout() { shift; "$@"; }\n'
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "-c", f"exec 3>&1 1>/dev/null\nset -f\nPATH=\n{stand_ins}{script}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        text=True,
    )
    commands = done.stdout.split("\n\0")
    return [command.removesuffix("\0").split("\0") for command in commands if command]
