"""The config of a report on runs; without torch, so that a help text is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fcmae.run.threads import ThreadsConfig


@dataclass(frozen=True, kw_only=True)
class ReportConfig(ThreadsConfig):
    """Show what runs have come to, in one HTML file that needs no network."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Directories of runs, finished or still training, or of folders with runs in them. Several
    runs are drawn over each other, and their recipes are compared."""
    out: Path | None = None
    """The HTML file to write; by default report.html in the first of the directories."""
