"""All sets of runs by their names, and making one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from fcmae.run.files import write_text
from fcmae.run.terminal import say
from scripts.reproducing.ablations import Ablations
from scripts.reproducing.config import Reproduce, SetName
from scripts.reproducing.data_sets import DATA_SETS, tiny
from scripts.reproducing.length import Length
from scripts.reproducing.results import Results
from scripts.reproducing.rivals import Rivals
from scripts.reproducing.runs import Making, Program, Run, with_needs
from scripts.reproducing.search import Search
from scripts.reproducing.setting import Setting
from scripts.reproducing.tables import PAGE, between_marks
from scripts.reproducing.transfer import OF_ELPV, OF_EMOJI

RESULTS = Path("scripts/recipes/results")


class RunSet(Protocol):
    """Runs, and the table that is made of their results."""

    def runs(self, setting: Setting) -> Sequence[Run]:
        """All runs, in the order in which they are made."""
        ...

    def table(self, results: Results) -> list[str]:
        """The lines of the table."""
        ...


SETS: Mapping[SetName, RunSet] = {
    "elpv": OF_ELPV,
    "emoji": OF_EMOJI,
    "few_labels": Search(),
    "length": Length(),
    "ablations": Ablations(),
    "rivals": Rivals(),
}


def reproduce(config: Reproduce, program: Program) -> None:
    """Make the runs of sets that have no result yet, and write the tables.

    Args:
        config: of the command.
        program: runs a program with arguments.

    Raises:
        OSError: shards, results or the page cannot be read or written.
        ValueError: results are damaged or of other commands, the page has no place for a table, or
            some runs have failed, after all others are done.
        SystemExit: a signal came; the run that was going on is saved.
    """
    failed = list[str]()
    for name in config.sets:
        results = Results((config.runs / "dry" if config.dry else RESULTS) / f"{name}.json")
        try:
            if not config.table:
                making = Making(results, program)
                making.all([*with_needs(SETS[name].runs(setting_of(config, name)))])
                failed += making.failed
        finally:
            if not config.dry:
                write_table(name, results, PAGE)
    if failed:
        raise ValueError(f"{len(failed)} failed, the others are written: {'; '.join(failed)}")


def setting_of(config: Reproduce, name: SetName) -> Setting:
    """Where the runs of a set lie, and on which data; these are made where they are not there.

    Raises:
        OSError, ValueError: the data cannot be made or read.
    """
    own = {"elpv": ("elpv",), "emoji": ("emoji",), "ablations": ("emoji",)}
    data = {}
    for images in own.get(name, config.images):
        DATA_SETS[images].provide()
        one = DATA_SETS[images]
        data[images] = tiny(one, config.runs / "dry/data") if config.dry else one
    folder = config.runs / "dry" / name if config.dry else config.runs / name
    return Setting(folder=folder, data=data, dry=config.dry)


def write_table(name: SetName, results: Results, page: Path) -> None:
    """Write the table of a set into the page, which stays as it is where there are no results.

    Raises:
        OSError: the page cannot be read or written.
        ValueError: it has no place for the table.
    """
    if not results.entries:
        say(f"nothing measured in {results.path}: the table of {name} stays as it is")
        return
    lines = SETS[name].table(results)
    write_text(page, between_marks(page.read_text(encoding="utf-8"), name, lines))
