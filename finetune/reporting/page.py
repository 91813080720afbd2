"""The page of a report: all sections in one HTML file, which loads nothing and runs nothing else.

Its Content-Security-Policy allows the scripts by their hashes alone, so that no text of a run can
become one, and no request. Charts are drawn by Vega-Lite, which the file holds once.
"""

import base64
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from markupsafe import Markup
from vl_convert import javascript_bundle

from fcmae import __version__
from fcmae.run.secrets import public
from fcmae.run.waiting import counted, waiting
from finetune.reporting import (
    curves,
    features,
    health,
    layers,
    reconstructions,
    results,
    settings,
    spectrum,
)
from finetune.reporting.record import RunRecord
from finetune.reporting.section import TEMPLATES, Section, render

# In the order of the page; a module of a section adds its line here.
SECTIONS: tuple[Callable[[Sequence[RunRecord]], Section | None], ...] = (
    health.section,
    curves.section,
    reconstructions.section,
    spectrum.section,
    features.section,
    layers.section,
    results.section,
    settings.section,
)
STYLES = ("page.css", "pictures.css")
LIBRARY = "window.vegaEmbed = vegaEmbed; window.vega = vega;"  # what our scripts use of the bundle


def page(runs: Sequence[RunRecord]) -> str:
    """Make the HTML of a report.

    Args:
        runs: at least one.
    """
    turns = counted(SECTIONS, "drawing the report", len(SECTIONS), "sections")
    made = [make(runs) for make in turns]
    sections = [section for section in made if section is not None]
    return whole(" · ".join(run.name for run in runs), "Pretraining report", sections)


def whole(title: str, kind: str, sections: Sequence[Section]) -> str:
    """Make the HTML of sections, whatever they are about.

    Args:
        title: the heading of the page.
        kind: what page it is, in a few words.
        sections: in their order.
    """
    data = {
        "sections": {s.name: {"charts": s.charts, "data": s.data} for s in sections},
    }
    names = ["page.js", *dict.fromkeys(s.script for s in sections if s.script)]
    scripts = [library(), *(read(name) for name in names)]
    return render(
        "page.html",
        title=title,
        kind=kind,
        version=__version__,
        sections=sections,
        style=Markup("\n".join(map(read, STYLES))),
        data=as_script(data),
        scripts=[Markup(script) for script in scripts],
        policy=policy(scripts),
    )


@cache
def library() -> str:
    """The JavaScript of Vega-Lite and all that it needs; it takes seconds to put together."""
    with waiting("putting the library of charts together"):
        return javascript_bundle(LIBRARY)


def read(name: str) -> str:
    """Read a file of templates/ that goes into the page as it is."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def policy(scripts: Sequence[str]) -> str:
    """The Content-Security-Policy of a page that has these scripts, and loads nothing."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )


def as_script(value: object) -> Markup:
    """JSON that stands in a script element, which no text in it can end."""
    text = json.dumps(plain(value), allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def plain(value: Any) -> Any:
    """A value as the page has it: numbers that are not finite are null, URLs without passwords."""
    if isinstance(value, Mapping):
        return {public(str(key)): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return public(value) if isinstance(value, str) else value
