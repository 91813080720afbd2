"""Where the programs and their recipes lie, and recipes by their names.

In a wheel they are inside this package, see `scripts/wheel.py`; otherwise in the checkout.
"""

import difflib
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
IN_WHEEL = PACKAGE / "app"
PROGRAMS = IN_WHEEL if IN_WHEEL.is_dir() else PACKAGE.parent
RECIPES = PROGRAMS / "scripts" / "recipes"
SUFFIXES = (".yaml", ".yml")


def recipe_of(word: str) -> Path | None:
    """Find the recipe that the first word of a command line names; None if it names none.

    Args:
        word: the path of a recipe, or the name of one that comes with the programs, such as `demo`
            or `finetune/small`. A file or folder of that name in the current folder goes first.

    Raises:
        FileNotFoundError: there is no such recipe; the message names the nearest, or all.
    """
    if word.startswith("-"):
        return None
    if not word.endswith(SUFFIXES):
        named = word in names() and not Path(word).exists()
        return RECIPES / f"{word}.yaml" if named else None
    if Path(word).is_file():
        return Path(word)
    known = names()
    close = difflib.get_close_matches(Path(word).stem, known, n=1)
    brought = (
        f"did you mean {close[0]}?" if close else f"those that come with it: {', '.join(known)}"
    )
    raise FileNotFoundError(f"recipe {word} does not exist; {brought}")


def name_of(path: Path) -> str | None:
    """The name of a recipe that comes with the programs; None for another file.

    Raises:
        OSError: there is no such file.
    """
    return next((name for name in names() if (RECIPES / f"{name}.yaml").samefile(path)), None)


def names() -> list[str]:
    """The names of all recipes that come with the programs."""
    files = sorted(RECIPES.rglob("*.yaml"))
    return [file.relative_to(RECIPES).with_suffix("").as_posix() for file in files]
