"""FCMAE: the fully convolutional masked autoencoder of ConvNeXt V2 (arXiv 2301.00808)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fcmae.masking import draw_visible
    from fcmae.model import FCMAE

__all__ = ["FCMAE", "draw_visible"]


def __getattr__(name: str) -> object:
    """Import `FCMAE` and `draw_visible` at first use: `import fcmae` does not load torch."""
    if name == "FCMAE":
        from fcmae.model import FCMAE

        return FCMAE
    if name == "draw_visible":
        from fcmae.masking import draw_visible

        return draw_visible
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
