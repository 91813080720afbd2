"""Where an idea stands in code: the lines of a class or function, ours or a library's."""

import ast
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fcmae.run.recipes import PROGRAMS

ROOMS = ("data", "fcmae", "finetune", "scripts")


@dataclass(frozen=True, kw_only=True)
class Place:
    """The lines of a class or a function."""

    name: str
    """Its dotted name."""
    file: str
    """The path of its file: from the checkout on, or from the folder of installed packages."""
    ours: bool
    """Whether it is in this project."""
    first: int
    """Its first line in the file."""
    text: str
    """Its lines."""

    @property
    def last(self) -> int:
        """Its last line in the file."""
        return self.first + self.text.count("\n") - 1


def place_of(code: str) -> Place:
    """Find a class or function at the top of a module.

    Args:
        code: `module:name`.

    Raises:
        ImportError: there is no such module.
        ValueError: the module has no such class or function.
    """
    module, _, name = code.partition(":")
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ImportError(f"{code}: there is no module {module}")
    path = Path(spec.origin)
    text = path.read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            first = min(part.lineno for part in (node, *node.decorator_list))
            lines = text.splitlines(keepends=True)[first - 1 : node.end_lineno]
            return Place(
                name=f"{module}.{name}",
                file="/".join(path.parts[-len(module.split(".")) :]),
                ours=path.is_relative_to(PROGRAMS) and module.partition(".")[0] in ROOMS,
                first=first,
                text="".join(lines),
            )
    raise ValueError(f"{code}: {path} has no class or function {name}")
