"""What a run can do without: told once when it fails, and once when it works again."""

import pytest

from fcmae.run.outages import Outage
from tests.support.programs import run


def test_an_outage_is_told_once_and_its_end_once(capsys: pytest.CaptureFixture[str]) -> None:
    outage = Outage("and the next one tries again")
    for works in (True, False, False, True, True, False):
        with outage.spared("a picture"):
            if not works:
                raise RuntimeError("no memory")
    warning = (
        "warning: a picture failed (RuntimeError: no memory); training goes on, and the next one"
        " tries again"
    )
    assert capsys.readouterr().out.splitlines() == [warning, "a picture works again", warning]


def test_ctrl_c_is_no_outage() -> None:
    with pytest.raises(KeyboardInterrupt), Outage("").spared("a picture"):
        raise KeyboardInterrupt


TELL = """
import os
from fcmae.run.outages import Outage, tell
kept = os.dup(1)
os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
tell("a line")
with Outage("and on").spared("a picture"):
    raise RuntimeError
os.dup2(kept, 1)
tell("the last line")
"""


def test_a_log_that_takes_no_line_stops_nothing() -> None:
    done = run("-c", TELL)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("the last line\n")


PROGRAM = """
import os, sys
from fcmae.run.program import run_program
def main(words):
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    sys.stdout = open(1, "w", closefd=False)  # with a buffer, whatever PYTHONUNBUFFERED says
    print("a line that waits in a buffer")
    sys.exit(int(words[0])) if words else None
run_program(main)
"""


def test_output_that_cannot_be_written_is_one_line_and_changes_no_other_status() -> None:
    done = run("-c", PROGRAM)
    assert done.returncode == 1
    assert done.stderr == (
        "error: standard output cannot be written: No space left on device; the end of it is lost\n"
    )
    done = run("-c", PROGRAM, 75)
    assert (done.returncode, done.stderr) == (75, "")
