"""The architecture: who imports whom, and what the wheel holds."""

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = {"pretrain", "finetune"}
# Inside fcmae a module imports only from its own level or lower ones.
LEVELS = {
    "masking": 0,
    "config": 0,
    "checkpoint": 0,
    "optim": 0,
    "ema": 0,
    "processes": 0,
    "stopping": 0,
    "rundir": 1,
    "progress": 2,
    "sparse": 1,
    "layers": 2,
    "encoder": 3,
    "decoder": 3,
    "loss": 3,
    "reconstruct": 4,
    "model": 4,
    "collapse": 4,
    "parallel": 5,
    "names": 4,
    "weights": 5,
    "export": 6,
    "convert": 7,
}


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(*rooms: str) -> list[Path]:
    return [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize(("room", "other"), [("fcmae", "data"), ("data", "fcmae")])
def test_libraries_never_import_each_other_or_a_program(room: str, other: str) -> None:
    for path in files(room):
        assert not roots(path) & (PROGRAMS | {other, "scripts", "tests"}), path


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("webdataset", ("data/", "scripts/bench/loading.py")),  # there as a rival
        ("accelerate", ("pretrain.py", "finetune/")),
        ("timm", ("fcmae/convert.py", "fcmae/weights/hub.py", "finetune/")),
        ("MinkowskiEngine", ("fcmae/sparse/minkowski.py",)),
    ],
)
def test_third_parties_stay_in_their_rooms(package: str, allowed: tuple[str, ...]) -> None:
    for path in [*files("fcmae", "data", "finetune", "scripts"), ROOT / "pretrain.py"]:
        if package in roots(path):
            assert path.relative_to(ROOT).as_posix().startswith(allowed), path


def test_method_modules_import_downwards_only() -> None:
    for path in files("fcmae"):
        own = path.relative_to(ROOT / "fcmae").parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "fcmae" and len(parts) > 1:
                assert LEVELS[parts[1]] <= LEVELS[own], f"{path} imports {name}"


def test_wheel_holds_fcmae_alone(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"fcmae"}
    assert {
        "fcmae/py.typed",
        "fcmae/sparse/gathered.py",
        "fcmae/sparse/minkowski.py",
        "fcmae/sparse/reference.py",
    } <= set(names)


def test_data_is_not_git_ignored() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    found = subprocess.run(["git", "check-ignore", "-q", "data/pipeline.py"], cwd=ROOT)
    assert found.returncode == 1
