"""Imports of others' packages, before any of ours.

While a module of ours is imported, jaxtyping's import hook has Python look for compiled files under
a name of its own, and so for all that this module imports: it would compile torch, timm and the
rest anew in each process, 15 seconds long.
"""

from importlib import import_module

from tests.support.programs import PRELOADED

for name in (*PRELOADED, "beartype"):
    import_module(name)
