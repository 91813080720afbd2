"""Runs of a set: made once, killed and gone on with, failing without the others."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.reproducing.results import Results
from scripts.reproducing.runs import Call, Making, Run


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """No results yet."""
    return Results(tmp_path / "results" / "some.json")


class Killed(BaseException):
    """What ends a process at once."""


class Programs:
    """A program that writes its first word into a file, and remembers what it was asked for.

    It is killed, or fails, at the calls whose file it is told.
    """

    def __init__(self, killed_at: str = "", failing_at: str = "") -> None:
        self.made = list[str]()
        self.killed_at = killed_at
        self.failing_at = failing_at

    def __call__(self, program: str, words: Sequence[str]) -> None:
        path = Path(words[0])
        if path.name == self.killed_at:
            raise Killed
        if path.name == self.failing_at:
            raise ValueError("no luck")
        path.write_text(program)
        self.made.append(path.name)


def run_of(folder: Path, name: str, *needs: Run, word: str = "") -> Run:
    """A run that writes a file of its name."""
    out = folder / name
    words = (str(out), *([word] if word else []))
    return Run(
        name=name,
        folder=folder,
        calls=lambda _: [Call(program="write", words=words)],
        makes=out,
        keep=lambda: {"value": 1 / 3},
        estimate=3600,
        needs=needs,
    )


def runs_in(folder: Path) -> list[Run]:
    """Weights, and two uses of them."""
    weights = run_of(folder, "weights")
    return [weights, run_of(folder, "one", weights), run_of(folder, "two", weights)]


def test_a_killed_set_goes_on_and_does_nothing_twice(
    tmp_path: Path, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Programs(killed_at="two")
    with pytest.raises(Killed):
        Making(results, first).all(runs_in(tmp_path))
    assert first.made == ["weights", "one"]
    assert "some: 3 of 3 runs to make, about 3.0 h on two cores" in capsys.readouterr().out
    again = Programs()
    Making(Results(results.path), again).all(runs_in(tmp_path))
    assert again.made == ["two"]
    found = Results(results.path)
    assert list(found.entries) == ["one", "two", "weights"]
    assert found.kept("two") == {"value": 0.33333}
    assert (
        "some: 1 of 3 runs to make, about 0.0 h on two cores" in capsys.readouterr().out
    )  # by the two before
    third = Programs()
    Making(found, third).all(runs_in(tmp_path))
    assert third.made == []


def test_weights_that_are_gone_are_made_again_for_a_run_that_needs_them(
    tmp_path: Path, results: Results
) -> None:
    runs = runs_in(tmp_path)
    Making(results, Programs()).all(runs[:2])
    (tmp_path / "weights").unlink()  # as in a fresh checkout, which has the results alone
    program = Programs()
    Making(results, program).all(runs)
    assert program.made == ["weights", "two"]


def test_what_fails_is_named_with_what_needs_it_and_the_others_go_on(
    tmp_path: Path, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    making = Making(results, Programs(failing_at="weights"))
    making.all([*runs_in(tmp_path), run_of(tmp_path, "alone")])
    assert making.failed == [
        "weights: no luck",
        "one: it needs weights, which has failed",
        "two: it needs weights, which has failed",
    ]
    assert list(results.entries) == ["alone"]


def test_a_result_of_another_command_is_refused(tmp_path: Path, results: Results) -> None:
    Making(results, Programs()).all([run_of(tmp_path, "one")])
    making = Making(results, Programs())
    making.all([run_of(tmp_path, "one", word="--other")])
    assert "of another command (write" in making.failed[0]
    assert "take the entry out, and the run is made again" in making.failed[0]


def test_damaged_results_are_named(tmp_path: Path) -> None:
    (tmp_path / "some.json").write_text('{"one": {"seconds": 1}}')
    with pytest.raises(ValueError, match=r"some\.json: the run 'one': its field 'commands'"):
        Results(tmp_path / "some.json")
