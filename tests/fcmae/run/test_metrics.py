"""metrics.jsonl on a full disk: lines wait, and none is lost, cut short or there twice."""

import json
from pathlib import Path
from typing import Any

import pytest

from fcmae.run.checkpoint import WAITING
from fcmae.run.metrics import METRICS, MetricsFile, as_scalars, read_metrics, restore_metrics
from tests.support.limits import files_end_at


def line(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 0.5}


def text(*steps: int) -> str:
    return "".join(f"{json.dumps(line(step))}\n" for step in steps)


def steps_of(run: Path) -> list[int]:
    return [line["step"] for line in read_metrics(run)]


def test_lines_that_do_not_fit_wait_and_come_in_their_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = MetricsFile(tmp_path)
    metrics.add(line(1))
    with files_end_at(len(text(1)) + 9):
        for step in (2, 3):
            metrics.add(line(step))
            assert (tmp_path / METRICS).read_text() == text(1)  # and no part of a line
    assert metrics.waiting == text(2, 3)
    metrics.add(line(4))
    assert (tmp_path / METRICS).read_text() == text(1, 2, 3, 4)
    assert metrics.waiting == ""
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"warning: writing {tmp_path / METRICS} failed (OSError: File too ")
    assert told[0].endswith(
        "training goes on, lines wait in memory and in checkpoints, and the next one tries again"
    )
    assert told[1:] == [f"writing {tmp_path / METRICS} works again"]


def test_a_part_of_a_line_that_stayed_goes_before_the_next_one(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path)
    metrics.add(line(1))
    with files_end_at(len(text(1)) + 9):
        metrics.add(line(2))
    with (tmp_path / METRICS).open("a") as file:  # as where it could not be cut off
        file.write(text(2)[:9])
    metrics.write()
    assert (tmp_path / METRICS).read_text() == text(1, 2)


@pytest.mark.parametrize("place", ["directory", "full device", "no directory"])
def test_whatever_is_in_the_way_no_line_is_lost(tmp_path: Path, place: str) -> None:
    run = tmp_path / "run"
    metrics = MetricsFile(run)
    if place != "no directory":
        run.mkdir()
    if place == "directory":
        metrics.path.mkdir()
    elif place == "full device":
        metrics.path.symlink_to("/dev/full")
    for step in (1, 2):
        metrics.add(line(step))
    if place == "directory":
        metrics.path.rmdir()
    elif place == "full device":
        metrics.path.unlink()
    else:
        run.mkdir()
    metrics.add(line(3))
    assert metrics.path.read_text() == text(1, 2, 3)


def test_a_file_that_was_made_shorter_meanwhile_is_extended_where_it_ends(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path)
    metrics.add(line(1))
    with files_end_at(len(text(1)) + 9):
        metrics.add(line(2))
    metrics.path.write_text("")
    metrics.write()
    assert metrics.path.read_text() == text(2)


def test_lines_that_a_checkpoint_carries_come_back_once(tmp_path: Path) -> None:
    checkpoint = tmp_path / "step_0000004"
    checkpoint.mkdir()
    restore_metrics(tmp_path, checkpoint)  # without any
    assert not (tmp_path / METRICS).exists()
    (checkpoint / WAITING).write_text(text(2, 3, 4))
    (tmp_path / METRICS).write_text(text(1, 3, 5) + text(6)[:9])
    for _ in range(2):
        restore_metrics(tmp_path, checkpoint)
        assert steps_of(tmp_path) == [1, 2, 3, 4, 5]


def test_lists_and_mappings_of_a_line_become_names_for_trackers() -> None:
    line = {"step": 3, "loss": 0.5, "collapse": [0.1, 0.2], "bad_samples": {"a.tar": 1}}
    assert as_scalars(line) == {
        "step": 3,
        "loss": 0.5,
        "collapse/0": 0.1,
        "collapse/1": 0.2,
        "bad_samples/a.tar": 1,
    }
