"""FCMAE: the fully convolutional masked autoencoder of ConvNeXt V2 (arXiv 2301.00808)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcmae.masking import draw_visible
    from fcmae.model import FCMAE

__all__ = ["FCMAE", "draw_visible"]


def __getattr__(name: str) -> Any:
    """Import what `__all__` lists when it is asked for (PEP 562).

    Both need torch, and `fcmae.run.config`, which prints the help texts of all programs, does not.
    """
    if name == "FCMAE":
        from fcmae.model import FCMAE

        return FCMAE
    if name == "draw_visible":
        from fcmae.masking import draw_visible

        return draw_visible
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
