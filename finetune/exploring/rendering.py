"""HTML out of the templates of the page; whatever is filled in is escaped."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"
ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def rendered(template: str, **values: Any) -> str:
    """Fill values into a template.

    Args:
        template: The name of its file.
        values: By the names that the template has for them.
    """
    return ENVIRONMENT.get_template(template).render(values)
