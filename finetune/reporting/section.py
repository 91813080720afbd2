"""A section of a report: its text, its charts and the numbers that they show.

A section module has a function `section` of the runs, which makes one of these, or none where there
is nothing to show. Its text comes from a file of templates/, in which every value is escaped.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fcmae.run.secrets import public
from fcmae.run.terminal import visible

TEMPLATES = Path(__file__).parent / "templates"
DASHES = ([1, 0], [7, 3], [2, 3], [9, 3, 2, 3])  # lengths of lines and gaps, run after run


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report, with a heading of its own."""

    name: str
    """Its anchor, one word in small letters, by which the table of contents links to it."""
    title: str
    """Its heading."""
    body: Markup
    """Its text below the heading, as `render` makes it."""
    charts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """A Vega-Lite specification for each `chart` of the text, by the chart's id. Its data may be
    `{"name": NAME}`, where NAME is a table of `data`. Without a width it is as wide as the page,
    and colours that it does not give are those of the page, dark or light."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What is drawn, as values of JSON, by name: a table is a list of objects. The file has them
    once, and `report.data("NAME OF THE SECTION")` gives them to scripts."""
    script: str = ""
    """The name of a file of templates/ with JavaScript that the section needs; it runs when the
    charts are drawn. Sections of the same file have it once."""


BLOCKS = {  # the axis of an encoder's blocks
    "field": "block",
    "type": "quantitative",
    "axis": {"tickMinStep": 1, "format": "d"},
    "scale": {"nice": False, "zero": False},
}


def render(template: str, **values: object) -> Markup:
    """Fill a template in; what it shows of `values` is escaped, and drives neither page nor text.

    Args:
        template: the name of a file of templates/, which may import `parts.html`.
        values: what the template names; a value that it lacks is an error of ours.
    """
    return Markup(environment().get_template(template).render(values))


@cache
def environment() -> Environment:
    """The templates, in which every value is escaped unless it is `Markup`."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["dashes"] = DASHES
    return made


def shown(value: object) -> object:
    """A value as a page shows it, in one line, without passwords and marks of direction."""
    return value if isinstance(value, Markup) else visible(public(str(value)))
