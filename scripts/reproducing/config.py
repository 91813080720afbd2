"""What users choose of the tables; a help text shows it without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

SetName = Literal["elpv", "emoji", "few_labels", "length", "ablations", "rivals"]
ImagesName = Literal["emoji", "glyphs", "elpv", "parts"]


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Make the tables of the page of results."""

    sets: tuple[SetName, ...] = get_args(SetName)
    """elpv, emoji: random, pretrained and others' models on a tenth of the labels. few_labels: the
    search for the recipe for few labels. length: accuracy against passes over the data. ablations:
    the claims of the paper. rivals: others on the same seconds of a processor."""
    images: tuple[ImagesName, ...] = get_args(ImagesName)
    """The data sets on which sets with several of them run: emoji, glyphs, elpv, parts."""
    table: bool = False
    """Only write the tables, out of the results in scripts/recipes/results."""
    runs: Path = Path("runs/reproduce")
    """Directory of all runs."""
    dry: bool = False
    """Make all runs of a few steps on a few images, in the folder dry of the runs, and no table: it
    shows that all of it works, and measures nothing."""
