"""The config of a plan for images; without torch, so that a help text is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fcmae.run.ranges import Positive
from fcmae.run.threads import ThreadsConfig


@dataclass(frozen=True, kw_only=True)
class ImagesPlan(ThreadsConfig):
    """Write a recipe for your images, this machine and so many hours.

        fcmae plan photos/ --hours 4 --out mine.yaml

    With a recipe in place of images, the command computes what a run needs of a cluster:
    `fcmae plan imagenet --help` lists the flags for that.
    """

    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """A folder or a table of images, or paths and patterns of shards."""
    hours: Positive
    """Time for the pretraining on this machine."""
    out: Path = Path("recipe.yaml")
    """The recipe to write, which is never written over."""
    dir: Path | None = None
    """The directory of the run; by default runs/ and the name of the recipe."""
