"""What one waits for: bars in a terminal, plain lines elsewhere, of one process of several."""

import os
import re
from pathlib import Path

import pytest

from data.sets.demo import TEST
from fcmae.run import waiting as module
from fcmae.run.display import is_plain
from fcmae.run.waiting import Wait, clock, counted, waiting
from tests.support.programs import ROOT, on_terminal, run
from tests.support.shards import write_colours

ESCAPE = "\x1b["
BAR = "━"
# A program that takes a while: what is done has a name that would drive a terminal.
SLOW = """
import sys, time, warnings
from fcmae.run import waiting
from fcmae.run.program import run_program
from fcmae.run.tables import print_table
from fcmae.run.terminal import say

waiting.SHORT, waiting.EVERY, waiting.DELAY = 0.3, 0.5, 0.1


def main(argv):
    with waiting.waiting("reading \\x1b[31m[red]x[/red]"):
        for i in waiting.counted(range(10), "counting \\x1b]0;title\\x07", 10, "things"):
            if i == 5:
                say("said [bold]meanwhile[/bold] \\x1b[2J")
            time.sleep(0.15)
    if argv:
        raise ValueError("size=3 is odd")
    print_table("", ["name", "number"], [["[red]a\\x1b[31m", 1], ["b" * 150, 22]])


run_program(main)
"""


def lines_of(told: str) -> list[str]:
    """What a terminal shows in the end of what came, as far as lines and colours go."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told.replace("\x1b[2K", "\n"))
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def test_a_pipe_gets_plain_lines_and_standard_output_what_is_said() -> None:
    done = run("-c", SLOW)
    assert ESCAPE not in done.stdout + done.stderr
    assert BAR not in done.stdout + done.stderr
    *table, wide = done.stdout.splitlines()[1:]
    assert done.stdout.splitlines()[0] == r"said [bold]meanwhile[/bold] \x1b[2J"
    name = r"[red]a\x1b[31m"
    assert table == [f"{'name':<150}  number", f"{name:<150}       1"]
    assert wide == "b" * 150 + "      22"  # wider than a screen, and whole
    first, *_ = done.stderr.splitlines()
    assert first == r"reading \x1b[31m[red]x[/red]: 00:00"
    counting = re.compile(r"counting \\x1b]0;title\\x07: \d/10 things, \d0%, 00:0\d, 00:0\d left")
    assert any(counting.fullmatch(line) for line in done.stderr.splitlines())
    assert r"counting \x1b]0;title\x07: 10 things in 00:01" in done.stderr
    assert len(done.stderr.splitlines()) < 12  # at most one each half second, and the ends


def test_a_terminal_gets_bars_below_the_lines_that_are_said() -> None:
    status, told = on_terminal("-c", SLOW, columns=100)
    assert status == 0
    assert BAR in told
    assert "\x1b[31m" not in told  # neither of the names' colours, nor their titles
    assert "\x07" not in told
    lines = lines_of(told)
    said = lines.index(r"said [bold]meanwhile[/bold] \x1b[2J")
    assert any(BAR in line for line in lines[:said])
    assert any(re.search(r"counting .*5/10 things", line) for line in lines[said + 1 :])
    assert lines.index(r"counting \x1b]0;title\x07: 10 things in 00:01") > said
    assert told.rfind("\x1b[?25h") > told.rfind("\x1b[?25l")  # the cursor is there in the end
    folded = "".join(re.findall("b+", told.partition("in 00:01")[2]))
    assert folded.count("b") >= 150  # a wide cell is folded, not cut


@pytest.mark.parametrize(
    ("words", "env"),
    [(["--plain"], {}), ([], {"CI": "true"}), ([], {"TERM": "dumb"})],
    ids=["flag", "CI", "dumb"],
)
def test_a_terminal_may_ask_for_plain_lines(words: list[str], env: dict[str, str]) -> None:
    status, told = on_terminal("-c", SLOW, *words, env=env)
    assert status == 0
    assert ESCAPE not in told
    assert BAR not in told
    assert "counting" in told


def test_no_colour_leaves_the_bars() -> None:
    _, told = on_terminal("-c", SLOW, env={"NO_COLOR": "1"})
    assert BAR in told
    assert not re.search(r"\x1b\[[0-9;]*[349][0-9]", told)


def test_a_narrow_terminal_has_room_for_the_words() -> None:
    _, told = on_terminal("-c", SLOW, columns=40)
    assert BAR not in told.partition("┏")[0]
    assert max(map(len, lines_of(told)[:4])) <= 40


def test_an_error_stands_alone_below_what_was_said() -> None:
    status, told = on_terminal("-c", SLOW, "fail")
    assert status == 1
    assert lines_of(told)[-1] == "error: size=3 is odd"


def test_standard_output_in_a_file_is_that_of_a_pipe(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    _, told = on_terminal("-c", SLOW, out=out)
    assert BAR in told
    assert out.read_text() == run("-c", SLOW).stdout


def test_one_of_several_processes_speaks() -> None:
    first, other = (run("-c", SLOW, env={"RANK": rank}) for rank in ("0", "1"))
    assert "counting" in first.stderr
    assert other.stderr == ""


def test_workers_are_silent() -> None:
    code = """
import multiprocessing, time
from fcmae.run import waiting
waiting.SHORT = 0.1
def work():
    with waiting.waiting("working"):
        time.sleep(1.2)
for context in ("fork",):
    with waiting.waiting("waiting for the worker"):
        worker = multiprocessing.get_context(context).Process(target=work)
        worker.start()
        worker.join()
"""
    done = run("-c", code)
    assert "waiting for the worker" in done.stderr
    assert "working" not in done.stderr


def test_help_tells_of_the_flag_that_all_programs_have() -> None:
    for program in ("finetune/knn.py", "data/shards/__main__.py"):
        done = run(program, "--help", "--plain")
        assert (done.returncode, done.stderr) == (0, "")
        assert "every program has --plain" in done.stdout


def test_the_door_takes_the_flag_anywhere(tmp_path: Path) -> None:
    for words in (["--plain", "shards", "verify"], ["shards", "verify", "--plain"]):
        status, told = on_terminal("-m", "fcmae", *words, TEST)
        assert status == 0
        assert ESCAPE not in told
        assert "all is well" in told


def test_verifying_shows_a_bar_for_its_shards() -> None:
    shards = sorted((ROOT / "data/demo").glob("*.tar.gz"))  # for a bar takes a moment to appear
    status, told = on_terminal("-m", "data.shards", "verify", *shards, "--workers", "1")
    assert status == 0
    assert "all is well" in lines_of(told)[-1]
    assert any("verifying shards" in line and BAR in line for line in lines_of(told))


@pytest.mark.slow
def test_embedding_shows_how_far_it_is(tmp_path: Path) -> None:
    shards = write_colours(tmp_path, "train", 64)
    flags = ["--weights", "none", "--random.image_size", "16", "--random.stem_stride", "1"]
    flags += ["--piece", "2", "--data.workers", "0"]
    status, told = on_terminal("-m", "finetune.embed", shards, tmp_path / "a.parquet", *flags)
    assert status == 0, told
    assert any(re.search("extracting features .*[0-9]+/[0-9]+ pieces", s) for s in lines_of(told))
    done = run("-m", "finetune.embed", shards, tmp_path / "b.parquet", *flags)
    assert ESCAPE not in done.stdout + done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()][-1] == "next"


@pytest.mark.slow
def test_pretraining_shows_its_steps_and_loss(tmp_path: Path) -> None:
    flags = ["--data.train", TEST, "--data.workers", "0", "--optim.batch_size", "8"]
    flags += ["--optim.steps", "12", "--optim.warmup_epochs", "None"]
    flags += ["--model.image_size", "32", "--run.log_every", "2"]
    flags = ["scripts/recipes/demo.yaml", *flags]
    status, told = on_terminal("pretrain.py", *flags, "--run.dir", tmp_path / "a")
    assert status == 0, told
    bars = [line for line in lines_of(told) if line.startswith("training")]
    assert any(re.search(r"/12 steps, .*loss \d\.\d{4}, \d+ images/s, data \d+%", s) for s in bars)
    assert not any(line.startswith("step 2/12") for line in lines_of(told))
    status, told = on_terminal("pretrain.py", "--plain", *flags, "--run.dir", tmp_path / "b")
    assert status == 0, told
    assert ESCAPE not in told
    assert "\nstep 2/12  loss " in told.replace("\r\n", "\n")


def test_what_is_short_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(counted(range(3), "counting", 3, "things")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_parts_of_one_name_are_counted_together() -> None:
    with waiting("fetching", 10, "B") as one, waiting("fetching", 30, "B") as other:
        assert one is other
        other.advance(4)
        assert (one.done, one.total) == (4, 40)
    assert module.WATCH.waits == []


def test_the_time_that_is_left_follows_from_what_was_done_here() -> None:
    wait = Wait("training", 100, "steps", done=50)
    wait.began -= 60.5
    wait.paced = wait.began, 50
    wait.advance(10)
    assert wait.state() == "60/100 steps, 60%, 01:00, 04:02 left"
    assert wait.end() == "training: 60 steps in 01:00"
    wait.pace_from_here()
    assert wait.state() == "60/100 steps, 60%, 01:00"
    sizes = Wait("fetching", 3_000_000, "B")
    sizes.advance(1_500_000)
    assert sizes.amount() == "2/3 MB"
    assert [clock(s) for s in (0.0, 59.9, 3661.0)] == ["00:00", "00:59", "1:01:01"]


def test_a_file_is_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with (tmp_path / "out.txt").open("w") as file:
        assert is_plain(file)
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours, "rb", 0):
        assert not is_plain(terminal)
        monkeypatch.setenv("CI", "1")
        assert is_plain(terminal)
