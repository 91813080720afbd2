"""FCMAE: the fully convolutional masked autoencoder of ConvNeXt V2 (arXiv 2301.00808)."""

from fcmae.masking import draw_visible
from fcmae.model import FCMAE

__all__ = ["FCMAE", "draw_visible"]
