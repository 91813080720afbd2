"""Programs: help comes quickly, and a reader who leaves is no error."""

import os
import subprocess
import sys

import pytest

from tests.support.programs import ROOT

# the programs whose help text needs nothing heavy
LIGHT = [
    "data/demo/__main__.py",
    "data/elpv.py",
    "data/glyphs/__main__.py",
    "data/parts.py",
    "data/scenes.py",
    "data/shards/__main__.py",
    "fcmae/convert.py",
    "finetune/embed.py",
    "finetune/explore.py",
    "finetune/export.py",
    "finetune/few_shot.py",
    "finetune/knn.py",
    "finetune/linear_probe.py",
    "finetune/lookup.py",
    "finetune/predict.py",
    "finetune/segment.py",
    "finetune/train.py",
    "pretrain.py",
    "scripts/baselines.py",
    "scripts/benchmark.py",
    "scripts/lineage.py",
    "scripts/make_shards.py",
    "scripts/pictures.py",
    "scripts/plan.py",
    "scripts/report.py",
    "scripts/reproduce.py",
    "scripts/soak.py",
]
# what their configs are composed of
LIGHT_MODULES = [
    "data.config",
    "data.making.build",
    "data.shards.reading",
    "data.shards.sources",
    "data.shards.writing",
    "fcmae.run.config",
    "fcmae.run.files",
    "fcmae.run.optim",
    "fcmae.run.options",
    "fcmae.weights.options",
    "finetune.exploring.config",
    "finetune.frozen.config",
    "finetune.labels.config",
    "finetune.lineage.config",
    "finetune.models.config",
    "finetune.reporting.config",
    "finetune.training.config",
    "finetune.training.pretraining",
    "scripts.reproducing.config",
]
HEAVY = {"torch", "torchvision", "timm", "accelerate", "matplotlib", "torchmetrics", "transformers"}
# Each in a fork of an interpreter that has imported what all of them need.
HELP = f"""
import os, runpy, sys
import numpy, tyro, yaml
for program in sys.argv[1:]:
    sys.stdout.flush()
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    print("==", program)
    sys.argv = [program, "--help"]
    try:
        runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
    print("heavy:", *sorted({HEAVY} & sys.modules.keys()), flush=True)
    os._exit(0)
"""


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What each program prints for --help."""
    done = python("-c", HELP, *LIGHT)
    assert done.returncode == 0, done.stderr
    parts = [part.partition("\n") for part in done.stdout.split("== ")[1:]]
    assert done.stderr == "", done.stderr
    return {program: told for program, _, told in parts}


@pytest.mark.parametrize("program", LIGHT)
def test_help_needs_nothing_heavy(program: str, helps: dict[str, str]) -> None:
    assert helps[program].startswith("usage: ")
    assert helps[program].splitlines()[-1] == "heavy:"


def test_what_help_texts_are_made_of_needs_nothing_heavy() -> None:
    code = f"import sys, {', '.join(LIGHT_MODULES)}; print(*sorted({HEAVY} & sys.modules.keys()))"
    done = python("-c", code)
    assert (done.stdout, done.stderr) == ("\n", "")


PROGRAM = """
import sys
from fcmae.run.program import run_program
def main(argv):
    {body}
run_program(main)
"""


def with_closed_output(program: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """The program, writing into a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.run(
            [sys.executable, *flags, "-c", program],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writing)


@pytest.mark.parametrize("flags", [[], ["-u"]], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "body",
    [
        "print('a line')",
        "print('x' * 100_000)\n    print('y' * 100_000)",
        "print('usage: ...'); sys.exit(0)",
    ],
    ids=["short", "long", "help"],
)
def test_a_reader_who_leaves_ends_a_program_quietly(body: str, flags: list[str]) -> None:
    done = with_closed_output(PROGRAM.format(body=body), *flags)
    assert done.stderr == ""


def test_an_error_is_told_though_the_reader_has_left() -> None:
    done = with_closed_output(PROGRAM.format(body="print('a line'); raise ValueError('size=3')"))
    assert (done.returncode, done.stderr) == (1, "error: size=3\n")


def test_another_broken_pipe_is_an_error() -> None:
    body = "raise BrokenPipeError('a worker does not read')"
    done = python("-c", PROGRAM.format(body=body))
    assert (done.returncode, done.stderr) == (1, "error: a worker does not read\n")


def test_the_help_of_a_program_can_be_cut_short() -> None:
    program = "import runpy, sys; sys.argv[1:] = ['--help']; "
    program += "runpy.run_path('data/elpv.py', run_name='__main__')"
    assert with_closed_output(program).stderr == ""


def test_every_program_ends_as_all_do() -> None:
    """Who is started from the command line goes through `run_program`, and nothing else."""
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT)
        if place.parts[0] in ("tests", "runs", "datasets") or place.parts[0].startswith("."):
            continue
        _, found, body = path.read_text().partition('\nif __name__ == "__main__":\n')
        if found:
            assert body == "    run_program(main)\n", place
