"""Imports of others' packages, before any of ours; and the ambient randomness of tests.

While a module of ours is imported, jaxtyping's import hook has Python look for compiled files under
a name of its own, and so for all that this module imports: it would compile torch, timm and the
rest anew in each process, 15 seconds long.
"""

from importlib import import_module

import pytest
import torch

from tests.support.programs import PRELOADED

for name in (*PRELOADED, "beartype"):
    import_module(name)


@pytest.fixture(autouse=True)
def _ambient_randomness() -> None:
    """Start every test from the same state of torch's own generator.

    Layers that are made without a generator start from it, and a comparison within a tolerance
    would fail in one run of many.
    """
    torch.manual_seed(0)
