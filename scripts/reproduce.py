"""Make the tables of the page of results: few labels, length, the paper's claims, and rivals.

    fcmae reproduce                                     # all that is missing
    timeout 110m fcmae reproduce --sets ablations       # one set, in pieces
    fcmae reproduce --table                             # only write the tables

The hours that a set has left are printed first. All runs are in runs/reproduce/. A signal saves the
run that goes on and writes the tables, and the same command goes on. What was measured is a small
file for each set in scripts/recipes/results/, to be committed after each piece; the table of a set
goes between its marks in scripts/recipes/README.md.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from fcmae.run.config import parse
from fcmae.run.program import run_program
from fcmae.run.waiting import waiting
from scripts.reproducing.config import Reproduce

ROOT = Path(__file__).parents[1]


def main(argv: Sequence[str]) -> None:
    """Run what is missing, then write the tables into the page of results.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: results are damaged or of other commands, the page has no place for a table, or
            some runs have failed, after all others are done.
        SystemExit: a signal came; the run that was going on is saved.
    """
    config = parse(Reproduce, argv, description=str(__doc__))
    with waiting("importing PyTorch"):
        from scripts.reproducing.programs import start
        from scripts.reproducing.sets import reproduce

    os.chdir(ROOT)
    reproduce(config, start)


if __name__ == "__main__":
    run_program(main)
