"""The wheel, in an environment of its own, does what README shows, in any folder."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.programs import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_it_holds_one_package_with_all_programs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"fcmae"}
    assert {
        "fcmae/py.typed",
        "fcmae/run/session.py",
        "fcmae/sparse/minkowski.py",
        "fcmae/app/pretrain.py",
        "fcmae/app/data/pipeline.py",
        "fcmae/app/data/shards/__main__.py",
        "fcmae/app/finetune/knn.py",
        "fcmae/app/finetune/reporting/templates/page.html",
        "fcmae/app/finetune/reporting/templates/lineage_line.html",
        "fcmae/app/scripts/lineage.py",
        "fcmae/app/scripts/make_shards.py",
        "fcmae/app/scripts/recipes/demo.yaml",
    } <= names
    assert not any(name.endswith((".tar.gz", ".pyc")) for name in names)
    assert wheel.stat().st_size < 2e6


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel, and with the packages of this one behind."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, wheel], check=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    # what lies in `site` goes first; a .pth within the other folder would name this checkout
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with photographs, some of them in folders of two classes."""
    folder = tmp_path_factory.mktemp("mine")
    draws = np.random.default_rng(0)
    for side, count in (
        ("photos", 12),
        ("train/a", 6),
        ("train/b", 6),
        ("test/a", 3),
        ("test/b", 3),
    ):
        (folder / side).mkdir(parents=True)
        for i in range(count):
            pixels = draws.integers(0, 255, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / side / f"{i}.png")
    (folder / "data.py").write_text("raise ImportError('a file of the user')\n")
    return folder


@pytest.mark.slow
def test_from_an_empty_folder_to_predictions(bin_folder: Path, folder: Path) -> None:
    env = os.environ | {"PYTHONPATH": ""}

    def fcmae(*words: str) -> str:
        done = subprocess.run(
            [bin_folder / "fcmae", *words],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    cache = ("--data.source.cache", "cache")
    labelled = ("--data.train", "train/", "--data.test", "test/", *cache)
    assert "pretrain" in fcmae()
    assert "reason" not in fcmae("plan", "photos/", "--hours", "0.001", "--out", "mine.yaml")
    short = ("--optim.steps", "2", "--optim.batch_size", "4", "--data.workers", "1")
    assert "12 images become shards" in fcmae("pretrain", "mine.yaml", *short, *cache)
    encoder = "runs/mine/encoder.safetensors"
    fcmae("convert", "runs/mine", encoder)
    told = fcmae("probe", "--weights", encoder, *labelled, "--seeds", "1", "--out", "probe.json")
    assert "linear probe" in told.lower()
    words = ("finetune", "finetune/small", "--weights", encoder, *labelled, "--out", "tuned.json")
    fcmae(*words, "--optim.steps", "2", "--optim.batch_size", "4", "--data.workers", "1")
    told = fcmae("predict", "photos/0.png", "--weights", "tuned/weights.safetensors", "--json")
    assert '"image": "photos/0.png"' in told
    code = f"import fcmae; assert 'site-packages' in fcmae.__file__; fcmae.load('{encoder}')"
    subprocess.run([bin_folder / "python", "-c", code], cwd=folder, env=env, check=True)


@pytest.mark.slow
def test_a_type_checker_follows_its_types(bin_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(
        """
from pathlib import Path

from PIL.Image import Image
from torch import Tensor, nn

import fcmae

model, transform = fcmae.load(Path("runs/mine"))
a: nn.Module = model
b: Tensor = transform("a.jpg")
c: Tensor = fcmae.features("runs/mine", ["a.jpg"])
d: Image = fcmae.reconstruct("runs/mine", "a.jpg").pasted
e: dict[str, list[object]] = fcmae.pretrain("small").metrics
f: str = fcmae.__version__
"""
    )
    pyright = Path(sys.executable).with_name("basedpyright")
    done = subprocess.run(
        [pyright, "--pythonpath", bin_folder / "python", "--level", "error", "user.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
