"""FCMAE: the fully convolutional masked autoencoder of ConvNeXt V2 (arXiv 2301.00808)."""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fcmae.api import Reconstruction, Run, features, load, pretrain, reconstruct
    from fcmae.masking import draw_visible
    from fcmae.model import FCMAE

    __version__: str

__all__ = [
    "FCMAE",
    "Reconstruction",
    "Run",
    "draw_visible",
    "features",
    "load",
    "pretrain",
    "reconstruct",
]
HOMES = {"FCMAE": "fcmae.model", "draw_visible": "fcmae.masking"}  # of others, fcmae.api


def __getattr__(name: str) -> object:
    """Import what `__all__` names at first use: `import fcmae` does not load torch."""
    if name == "__version__":
        return version("fcmae")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES.get(name, "fcmae.api")), name)
