"""Imports of others' packages, before any of ours; the ambient randomness and folders of tests.

While a module of ours is imported, jaxtyping's import hook has Python look for compiled files under
a name of its own, and so for all that this module imports: it would compile torch, timm and the
rest anew in each process, 15 seconds long.
"""

import gc
import os
from collections.abc import Iterator
from importlib import import_module
from shutil import rmtree

import pytest

pytest_plugins = ["tests.support.browser"]


def pytest_configure(config: pytest.Config) -> None:
    """Import others' packages, but for a process that only hands tests to others."""
    if not config.getoption("numprocesses", None):
        import torch  # here: the process that hands out tests does without

        if not torch.cuda.is_available():  # then Triton interprets kernels, if it is told before
            os.environ["TRITON_INTERPRET"] = "1"
        for name in ("tests.support.preloaded", "beartype"):
            import_module(name)
        gc.disable()  # until ours and the tests are imported, too


def pytest_collection_finish() -> None:
    """Let the garbage collector look at what tests make, and no more at what was imported."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests start programs.

    They take longest, and one of them at the end would leave all processes but its own idle.
    """
    items.sort(key=lambda item: item.path.parent.name not in ("pretraining", "scripts", "tests"))


@pytest.fixture(autouse=True)
def _ambient_state() -> None:
    """Start every test from the same state of torch, whichever ran before it in its process.

    Layers that are made without a generator start from torch's own, and a comparison within a
    tolerance would fail in one run of many. Programs allow deterministic operations alone.
    """
    import torch

    torch.manual_seed(0)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True, scope="module")
def _folders(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Remove what the fixtures of a file have written, once all its tests have passed.

    pytest itself removes the folder of a test, but keeps those of fixtures until the last file.
    """
    base = tmp_path_factory.getbasetemp()
    before = set(base.iterdir())
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed == failed:
        for folder in set(base.iterdir()) - before:
            rmtree(folder, ignore_errors=True)
