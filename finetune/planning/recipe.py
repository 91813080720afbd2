"""A planned recipe as a YAML file, with a reason beside each value."""

from collections.abc import Iterable, Sequence
from itertools import groupby

import yaml

from finetune.planning.rules import Choice

ADVISED = ("init.",)  # sections that are left to comments: they fetch something


def recipe_text(choices: Iterable[Choice], header: Sequence[str]) -> str:
    """Write choices as a recipe.

    Args:
        choices: The fields, those of a section one after the other.
        header: Lines of the comment at the top.
    """
    lines = [f"# {line}".rstrip() for line in header]
    for section, members in groupby(choices, key=section_of):
        advised = f"{section}." in ADVISED
        mark = "# " if advised else ""
        if section:
            lines.append(f"{mark}{section}:")
        for choice in members:
            name = choice.field.rpartition(".")[2]
            value = f"{mark}{'  ' if section else ''}{name}: {as_yaml(choice.value)}"
            lines.append(f"{value:<34}  # {choice.why}")
    return "\n".join(lines) + "\n"


def section_of(choice: Choice) -> str:
    """The section of a field; "" for one of the whole recipe."""
    return choice.field.rpartition(".")[0]


def as_yaml(value: object) -> str:
    """A value on one line."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
    )
