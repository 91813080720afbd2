"""Checkpoints in the background: which of them stay, and what is kept where one cannot be written.

"Stopped and saved at step 13" and gone: the rotation had counted damaged checkpoints of later
steps, which the run had passed over, and removed the newest whole one.
"""

from pathlib import Path

import pytest
from torch import nn

from fcmae.run import checkpoint
from fcmae.run.checkpoint import TrainState
from fcmae.run.writer import Writer
from tests.support.limits import files_end_at

MODEL = nn.Linear(16, 16)
FILES = {checkpoint.MODEL: {name: p.detach() for name, p in MODEL.named_parameters()}}
FILES[checkpoint.OPTIMIZER] = {}  # has to be there


def write(writer: Writer, *steps: int) -> None:
    for step in steps:
        writer.write(TrainState(step), FILES, "a: 1\n")
    writer.wait()


def save(run: Path, *steps: int, damaged: tuple[int, ...] = ()) -> None:
    """What earlier starts of a run have left."""
    for step in steps:
        path = checkpoint.save(run, TrainState(step), FILES, "a: 1\n")
        if step in damaged:
            (path / checkpoint.MODEL).write_bytes(b"")


def steps_of(run: Path) -> list[int]:
    return [checkpoint.step_of(path) for path in checkpoint.checkpoints(run)]


def test_the_newest_are_kept_and_those_of_every_so_many_steps(tmp_path: Path) -> None:
    write(Writer(tmp_path, keep=2, keep_every=4), 2, 4, 6, 8, 10, 12, 13)
    assert steps_of(tmp_path) == [4, 8, 12, 13]


def test_steps_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write(Writer(tmp_path, keep=1), 9_999_999, 10_000_000)
    assert steps_of(tmp_path) == [10_000_000]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_damaged_checkpoints_of_later_steps_cost_the_newest_whole_one_nothing(
    keep: int, tmp_path: Path
) -> None:
    save(tmp_path, 6, 9, 12, 15, 18, 21, damaged=(15, 18, 21))
    writer = Writer(tmp_path, keep)
    write(writer, 13)  # at a signal, after going on from 12
    assert checkpoint.newest_whole(tmp_path, print) == tmp_path / "step_0000013"
    assert steps_of(tmp_path) == [*[6, 9, 12, 13][-keep:], 15, 18, 21]
    write(writer, 15, 18, 21)
    whole = [path for path in checkpoint.checkpoints(tmp_path) if checkpoint.check(path) is None]
    assert [checkpoint.step_of(path) for path in whole] == [12, 13, 15, 18, 21][-keep:]


def test_damaged_checkpoints_of_later_steps_go_once_the_run_has_passed_them(tmp_path: Path) -> None:
    save(tmp_path, 12, 15, 18, damaged=(15, 18))
    write(Writer(tmp_path, keep=2), 16, 20, 24)
    assert steps_of(tmp_path) == [20, 24]


def test_damaged_checkpoints_do_not_count(tmp_path: Path) -> None:
    save(tmp_path, 2, 4, 6, 8, damaged=(6, 8))
    writer = Writer(tmp_path, keep=2)
    write(writer, 10)
    assert steps_of(tmp_path) == [4, 6, 8, 10]
    write(writer, 12)
    assert steps_of(tmp_path) == [10, 12]


def test_a_disk_that_takes_no_more_keeps_what_is_whole_and_says_what(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, damaged=(3,))
    writer = Writer(tmp_path, keep=1)
    with files_end_at(1000):
        writer.write(TrainState(4), FILES, "a: 1\n")
        with pytest.raises(OSError, match="step_0000004 cannot be written") as caught:
            writer.wait()
    assert str(caught.value) == (
        f"checkpoint {tmp_path}/step_0000004 cannot be written (File too large);"
        f" {tmp_path}/step_0000002 is kept: make room, or let it be written, and the same command"
        " goes on from there"
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step_0000001", "step_0000002", "step_0000003"]  # and no half of a fourth
    write(writer, 4)
    assert steps_of(tmp_path) == [4]


def test_a_first_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    writer = Writer(tmp_path, keep=1)
    with files_end_at(1000):
        writer.write(TrainState(4), FILES, "a: 1\n")
        with pytest.raises(OSError, match=r"there is none before it: .* same command begins again"):
            writer.wait()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_removed_is_told_once_and_keeps_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "step_0000001").write_text("no directory, which is no checkpoint to remove")
    (tmp_path / "step_0000001.tmp").mkdir()
    writer = Writer(tmp_path, keep=1)
    write(writer, 2, 3, 4)
    assert steps_of(tmp_path) == [4]
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2
    assert told[0].startswith(
        f"warning: removing old checkpoints of {tmp_path} failed (NotADirectoryError: "
    )


def test_lines_of_metrics_that_wait_are_in_the_checkpoint_and_its_sums(tmp_path: Path) -> None:
    writer = Writer(tmp_path, keep=2)
    writer.write(TrainState(1), FILES, "a: 1\n", '{"step": 1}\n')
    write(writer, 2)
    one, two = checkpoint.checkpoints(tmp_path)
    assert (one / checkpoint.WAITING).read_text() == '{"step": 1}\n'
    assert checkpoint.WAITING in (one / checkpoint.SUMS).read_text()
    assert not (two / checkpoint.WAITING).exists()


def test_a_half_removed_checkpoint_is_neither_whole_nor_an_error(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    for name, file in (("step_0000002", checkpoint.SUMS), ("step_0000003", checkpoint.MODEL)):
        (tmp_path / name / file).unlink()
    (tmp_path / "step_0000004").mkdir()
    (tmp_path / "step_0000001").rename(tmp_path / "step_0000001.tmp")
    save(tmp_path, 1)
    assert checkpoint.newest_whole(tmp_path, print) == tmp_path / "step_0000001"
    assert sorted(path.name for path in tmp_path.glob("*.tmp")) == []
