"""README.md: short, with pictures, and each block of it runs as it stands."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcmae.cli import COMMANDS
from tests.support.images import photograph
from tests.support.pages import CODE, Block, blocks, links, prose, typed
from tests.support.programs import ROOT, run

SMALL = ("--optim.steps", "2", "--optim.batch_size", "4", "--data.workers", "0")
# what makes commands that would take hours end after two small steps
SHORT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("pretrain", "finetune", "segment"), SMALL),
    "few-shot": (*SMALL, "--seeds", "1", "--fractions", "1"),
}
# `fcmae` as typed, in front of a block
PRELUDE = f"""
fcmae() {{
    [ "$1" != pretrain ] || set -- "$@" {" ".join(SMALL)}
    "{sys.executable}" -m fcmae "$@"
}}
"""
# blocks that are not run here, by a word in them, and the file that runs their lines
ELSEWHERE = {"git clone REPOSITORY": ".ci/run"}

# commands of the table that are not run here: they fetch weights, need eight GPUs, serve for good,
# or are run by what runs this
NOT_RUN = ("timm:", "accelerate", "explore", "scripts/check.sh")


def test_it_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert 120 <= len(text.splitlines()) <= 150
    assert len(text.split()) < 1300


def test_its_pictures_are_small() -> None:
    pictures = [file for file, _ in links("README.md") if file.suffix == ".png"]
    assert len(pictures) == 2
    for picture in pictures:
        assert picture.stat().st_size < 300_000
        with Image.open(picture) as opened:
            assert opened.width >= 1000


def test_its_table_names_commands_of_every_kind() -> None:
    named = {words[1] for _, words in typed("README.md") if words[0] == "fcmae"}
    rare = {
        "demo",
        "glyphs",
        "knn",
        "export",
        "baselines",
        "reproduce",
        "benchmark",
        "lineage",
        "parts",
        "scenes",
        "elpv",
    }
    assert named >= {name.partition(" ")[0] for name in COMMANDS} - rare


def table() -> list[str]:
    """The commands of the table, in its order."""
    rows = [line.split(" | ")[1] for line in prose("README.md").splitlines() if line[:2] == "| "]
    return [code for cell in rows for code in CODE.findall(cell)]


def to_run(language: str) -> list[Block]:
    """The blocks of a language that are run here."""
    found = blocks("README.md", language)
    return [block for block in found if not any(word in block.text for word in ELSEWHERE)]


def test_what_is_not_run_here_is_run_elsewhere() -> None:
    for word, file in ELSEWHERE.items():
        (block,) = (b for b in blocks("README.md", "bash") if word in b.text)
        programs = [line.split()[0] for line in block.text.splitlines() if word not in line]
        assert programs
        assert all(program in (ROOT / file).read_text() for program in programs)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what README.md assumes: a few photographs, with labels too."""
    folder = tmp_path_factory.mktemp("user")
    image = photograph(180, 260)
    places = (
        "photos",
        *(f"labelled/{side}/{label}" for side in ("train", "test") for label in "ab"),
    )
    names = [f"{place}/{i}.jpg" for place in places for i in range(12 if place == "photos" else 6)]
    for i, name in enumerate([*names, "a.jpg", "b.jpg"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(image, 7 * i, axis=1)[:150, :170]).save(folder / name)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Of a user: this checkout, one thread, and a home, in whose cache shards of folders go."""
    libraries = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    here = {"HOME": str(folder), "XDG_CACHE_HOME": libraries, "PYTHONPATH": str(ROOT)}
    return os.environ | here | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def typed_in(scratch: Path) -> dict[str, subprocess.CompletedProcess[str]]:
    """What each block for a shell ended with, typed one after the other."""
    return {
        str(block): subprocess.run(
            ["bash", "-euc", PRELUDE + block.text],
            cwd=scratch,
            env=environment(scratch),
            capture_output=True,
            text=True,
        )
        for block in to_run("bash")
    }


@pytest.mark.slow
@pytest.mark.parametrize("block", to_run("bash"), ids=str)
def test_each_block_for_a_shell_runs(
    block: Block, typed_in: dict[str, subprocess.CompletedProcess[str]], scratch: Path
) -> None:
    done = typed_in[str(block)]
    assert done.returncode == 0, done.stdout + done.stderr
    assert (scratch / "runs/mine/step_0000002").is_dir()
    assert (scratch / "runs/mine/report.html").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("typed_in")
@pytest.mark.parametrize(
    "block",
    [*to_run("python"), *blocks("fcmae/README.md", "python")],
    ids=str,
)
def test_each_block_of_python_runs(block: Block, scratch: Path) -> None:
    encoder = scratch / "runs/mine/encoder.safetensors"
    if not encoder.exists():
        assert run("-m", "fcmae", "convert", "runs/mine", encoder, cwd=scratch).returncode == 0
    done = run("-c", block.text, cwd=scratch, env=environment(scratch))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("typed_in")
def test_each_command_of_its_table_runs(scratch: Path) -> None:
    scenes = ("scenes", "scans", "--train", "8", "--test", "8")
    assert run("-m", "fcmae", *scenes, cwd=scratch).returncode == 0
    lines = [code for code in table() if not any(word in code for word in NOT_RUN)]
    assert len(lines) >= 9
    for line in lines:
        _, *words = shlex.split(line)
        words += SHORT.get(words[0], ()) if words else ()
        done = run("-m", "fcmae", *words, cwd=scratch, env=environment(scratch))
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def test_the_blocks_are_found() -> None:
    assert len(to_run("bash")) == 1
    assert len(to_run("python")) == 1
    assert "masked autoencoder" in prose("README.md")
