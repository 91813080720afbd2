"""The results of other programs that a report finds beside a run: probes, k-NN, fine-tuning."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcmae.run.json_files import read_json
from fcmae.run.terminal import line_of, visible

OWN = ("environment.json", "data.json", "seconds.json", "not_finite_*.json", "config.json")
DEEPEST = 3  # folders below a run in which results are looked for
MOST = 500  # results
MOST_BYTES = 8_000_000  # of one


@dataclass(frozen=True, kw_only=True)
class Result:
    """A file of JSON that a program has written about an encoder."""

    path: Path
    """The file."""
    name: str
    """Where it lies, from the directory of the run, without its suffix: `pretrained-knn`."""
    content: Mapping[str, Any]
    """The object in it, which others have written: nothing in it is checked."""


def results_of(run: Path, problems: list[str]) -> Sequence[Result]:
    """Read the results in the directory of a run, and those that lie beside it.

    What lies beside it is its own where no other run has the same parent, as in runs/reproduce/, or
    where the weights that a result names lie in the run.

    Args:
        run: the directory of the run.
        problems: gets a sentence on each file that cannot be read.
    """
    found = list[Result]()
    for file in json_below(run, DEEPEST):
        place = file.relative_to(run)
        try:
            found.append(result_in(file, place))
        except (OSError, ValueError) as error:
            problems.append(f"The result {place} cannot be read: {line_of(error)}.")
    parent = run.resolve().parent
    alone = sum((folder / "config.yaml").is_file() for folder in folders(parent)) <= 1
    for file in json_below(parent, 0):
        with suppress(OSError, ValueError):  # most likely nothing of ours
            result = result_in(file, Path("..") / file.name)
            weights = result.content.get("weights")
            if isinstance(weights, str) and (alone or lies_in(weights, run)):
                found.append(result)
    if len(found) > MOST:
        problems.append(f"{len(found)} results lie beside the run; the first {MOST} are shown.")
    return found[:MOST]


def result_in(file: Path, place: Path) -> Result:
    """Read a result, which is called by its place.

    Raises:
        ValueError: it is no object of JSON, or too large.
        OSError: it cannot be read.
    """
    name = visible(place.with_suffix("").as_posix())
    return Result(path=file, name=name, content=read_json(file, dict, MOST_BYTES))


def json_below(folder: Path, depth: int) -> Iterator[Path]:
    """Iterate over files of JSON in a folder and those in it, by name, but not a run's records."""
    for file in sorted(folder.glob("*.json")):
        if file.is_file() and not any(file.match(pattern) for pattern in OWN):
            yield file
    if depth:
        for inner in folders(folder):
            yield from json_below(inner, depth - 1)


def folders(folder: Path) -> list[Path]:
    """The folders in a folder that may hold results: no checkpoints, links or hidden ones."""
    found = (path for path in folder.glob("[!.]*/") if not path.is_symlink())
    return sorted(path for path in found if not path.name.startswith("step_"))


def lies_in(weights: str, run: Path) -> bool:
    """Whether the path of weights that a result names is that of a run, or lies in it."""
    return Path(weights).resolve().is_relative_to(run.resolve())
