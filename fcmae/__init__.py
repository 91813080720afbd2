"""FCMAE: the fully convolutional masked autoencoder of ConvNeXt V2 (arXiv 2301.00808)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fcmae.masking import draw_visible
    from fcmae.model import FCMAE

__all__ = ["FCMAE", "draw_visible"]


def __getattr__(name: str) -> object:
    """Import torch when a name that needs it is asked for: a help text and a plan need neither."""
    if name == "FCMAE":
        from fcmae.model import FCMAE

        return FCMAE
    if name == "draw_visible":
        from fcmae.masking import draw_visible

        return draw_visible
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
