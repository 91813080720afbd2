"""The house: who imports whom, which libraries stay in which rooms, and what the wheel holds."""

import ast
import subprocess
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.programs import ROOT

ROOMS = ("fcmae", "data", "finetune", "scripts")
PROGRAMS = {"pretrain", "fcmae.convert"}  # and every file that lies right in finetune/ or scripts/
LEAVES = {
    f"fcmae.run.{leaf}"
    for leaf in (
        "config",
        "display",
        "extras",
        "fields",
        "files",
        "first_word",
        "hub",
        "json_files",
        "program",
        "ranges",
        "recipes",
        "secrets",
        "tables",
        "terminal",
        "threads",
        "waiting",
        "yaml_files",
    )
}
# In fcmae a module imports from its own level or lower ones. `run` stands beside the method: it
# imports nothing of it.
LEVELS = {
    "run": 0,
    "networks": 0,
    "vits": 0,
    "convmaes": 0,
    "convnexts": 0,
    "patches": 0,
    "contrast_config": 0,
    "architecture": 1,
    "model_config": 1,
    "masking": 2,
    "sheet": 2,
    "spectrum": 2,
    "sparse": 3,
    "layers": 4,
    "visible_encoder": 4,
    "encoder": 5,
    "encoders": 6,
    "decoders": 7,
    "loss": 7,
    "contrast": 7,
    "model": 8,
    "collapse": 8,
    "reconstruction": 8,
    "responses": 8,
    "weights": 9,
    "convert": 10,
    "cli": 11,
    "api": 12,
    "__main__": 12,
}


def module_of(path: Path) -> str:
    """The dotted name of a file's module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {
    module_of(path): path
    for path in [*(p for room in ROOMS for p in (ROOT / room).rglob("*.py")), ROOT / "pretrain.py"]
}


def imports(module: str) -> Iterator[str]:
    """Full names of what a file imports, wherever in it, but not for type checkers alone."""
    tree = ast.parse(PATHS[module].read_text())
    for branch in ast.walk(tree):
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING":
            branch.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & PATHS.keys()  # modules of a package, which itself is not asked
            if not names <= PATHS.keys():
                yield node.module


def modules_imported(module: str) -> set[str]:
    """Our modules that a file imports."""
    return PATHS.keys() & set(imports(module))


def is_program(module: str) -> bool:
    """Whether a module has a command line, by its place."""
    room, _, rest = module.partition(".")
    in_front = room in ("finetune", "scripts") and rest != "" and "." not in rest
    return module in PROGRAMS or (in_front and PATHS[module].name != "__init__.py")


def in_room(module: str, *rooms: str) -> bool:
    """Whether a module is one of these, or lies in one of these packages."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def test_programs_are_found() -> None:
    found = {module for module in PATHS if is_program(module)}
    assert {"pretrain", "fcmae.convert", "finetune.knn", "finetune.lookup"} <= found
    assert {"scripts.plan", "scripts.make_shards", "scripts.benchmark"} <= found
    assert "finetune.training.loop" not in found


def test_no_file_imports_a_program() -> None:
    for module in PATHS:
        for name in modules_imported(module):
            assert not is_program(name), f"{module} imports the program {name}"


def test_the_method_imports_no_other_room() -> None:
    for module in filter(lambda m: in_room(m, "fcmae"), PATHS):
        for name in modules_imported(module):
            assert in_room(name, "fcmae"), f"{module} imports {name}"


def test_data_imports_the_leaves_of_the_method_alone() -> None:
    for module in filter(lambda m: in_room(m, "data"), PATHS):
        for name in modules_imported(module):
            own = in_room(name, "data") or name in LEAVES
            assert own or name in ("fcmae", "fcmae.run"), f"{module} imports {name}"


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaves_import_leaves_alone(leaf: str) -> None:
    assert modules_imported(leaf) - {"fcmae", "fcmae.run"} <= LEAVES


def test_runs_know_nothing_of_the_method() -> None:
    for module in filter(lambda m: in_room(m, "fcmae.run"), PATHS):
        for name in modules_imported(module):
            assert in_room(name, "fcmae.run"), f"{module} imports {name}"


def test_the_method_imports_downwards_only() -> None:
    for module in filter(lambda m: m.startswith("fcmae."), PATHS):
        own = module.split(".")[1]
        for name in modules_imported(module) - {"fcmae", "fcmae.run"}:
            other = name.split(".")[1]
            assert LEVELS[other] <= LEVELS[own], f"{module} imports {name}"


def test_there_is_no_import_circle() -> None:
    graph = {module: modules_imported(module) - {module} for module in PATHS}
    order = tuple(TopologicalSorter(graph).static_order())  # a CycleError names the circle
    assert set(order) == set(PATHS)


@pytest.mark.parametrize(
    ("package", "rooms"),
    [
        ("webdataset", ("data", "scripts.bench.loading")),  # there as a rival
        ("accelerate", ("pretrain", "fcmae.run", "finetune")),
        ("timm", ("fcmae.weights", "fcmae.encoders", "fcmae.networks", "finetune")),
        ("MinkowskiEngine", ("fcmae.sparse.minkowski",)),
        ("triton", ("fcmae.sparse",)),
    ],
)
def test_third_parties_stay_in_their_rooms(package: str, rooms: tuple[str, ...]) -> None:
    users = [m for m in PATHS if package in {name.partition(".")[0] for name in imports(m)}]
    assert all(in_room(module, *rooms) for module in users), users


def test_data_is_not_git_ignored() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    found = subprocess.run(["git", "check-ignore", "-q", "data/pipeline.py"], cwd=ROOT)
    assert found.returncode == 1
