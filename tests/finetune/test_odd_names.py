"""Names of files, classes and samples that drive terminals: each program takes and prints them."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from fcmae.run.terminal import DRIVING, visible
from tests.support.images import coloured, encoded
from tests.support.models import TINY_FLAGS
from tests.support.programs import run

CLASSES = ("$\\foo$", "[bold]", "a\nb", "cat [kitten]", "\x1b[31mred", "\u202egpj", "caf\u00e9")
TRAINING = ("--optim.steps", "1", "--optim.batch_size", "7", "--data.workers", "0")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each class, of three images whose names are odd, too, and a broken one."""
    folder = tmp_path_factory.mktemp("odd") / "[images]\x1b[1m"
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(3):
            path = folder / name / f"{name}{i}.png"
            path.write_bytes(encoded(coloured(3 * number + i)))
    (folder / CLASSES[2] / "broken\r\x9b.png").write_bytes(b"nonsense")
    (folder / CLASSES[0] / os.fsdecode(b"no utf-8 \xff.png")).write_bytes(b"nonsense")
    return folder


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Shards of these images, and what was printed."""
    out = tmp_path_factory.mktemp("shards")
    flags = ("--workers", "1", "--max-broken", "0.5")
    done = run("scripts/make_shards.py", str(source), str(out), *flags)
    assert done.returncode == 0, done.stderr
    return out, told_by(done)


def told_by(done: subprocess.CompletedProcess[str]) -> str:
    """What a program printed, in which nothing but line feeds drives a terminal."""
    told = done.stdout + done.stderr
    for line in told.split("\n"):
        assert not DRIVING.search(line), repr(line)
    return told


def test_shards_of_odd_names_are_made_and_checked(made: tuple[Path, str]) -> None:
    out, told = made
    assert r"a\nb/broken\r\x9b.png" in told
    assert json.loads((out / "classes.json").read_text()) == sorted(CLASSES)
    for program in ("verify", "index"):
        done = run("-m", "data.shards", program, str(out / "train-000000.tar"))
        assert done.returncode == 0, done.stdout + done.stderr
        told_by(done)


def test_a_classifier_of_odd_names_is_trained_drawn_and_asked(
    made: tuple[Path, str], source: Path, tmp_path: Path
) -> None:
    shards = str(made[0] / "train-000000.tar")
    out = tmp_path / "[bold]\n.json"
    data = ("--data.train", shards, "--report_on", "held_out", "--data.held_out", "0.3")
    data += ("--data.test", shards)
    done = run("-m", "finetune.train", *data, *TINY_FLAGS, *TRAINING, "--out", str(out))
    assert done.returncode == 0, done.stderr
    told = told_by(done)
    assert "cannot be made" not in told
    for name in CLASSES:
        assert visible(name) in told
    assert list(json.loads(out.read_text())["per_class"]) == sorted(CLASSES)
    picture = out.with_suffix("") / "confusion.png"
    picture.unlink()
    picture.mkdir()  # so that it cannot be written
    (picture / "x").touch()
    again = run("-m", "finetune.train", *data, *TINY_FLAGS, *TRAINING, "--out", str(out))
    assert again.returncode == 0, again.stderr
    assert f"{visible(picture)} cannot be made" in told_by(again)
    weights = ("--weights", str(out.with_suffix("") / "weights.safetensors"))
    for form in ((), ("--json",)):
        done = run("-m", "finetune.predict", str(source), *weights, *form)
        assert done.returncode == 1, done.stderr  # of the broken image
        assert r"a\nb/broken\r\x9b.png" in told_by(done)
