"""Transparent pictures: their colours, or greys, on a background."""

import numpy as np

from data.config import StoredConfig

ALPHA = "have alpha, and are shown on a background (--background)"
PIXELS = 2**20  # that are composited at a time
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, as PIL has it


def on_background(
    image: np.ndarray, config: StoredConfig, premultiplied: bool = False
) -> np.ndarray:
    """Composite an image of 8 or 16 bits, whose last channel is alpha, on the background.

    Args:
        image: Grey and alpha, [h, w, 2], or red, green, blue and alpha, [h, w, 4].
        config: Has the background.
        premultiplied: Whether the colours are multiplied by alpha already.

    Returns:
        The image without alpha, [h, w, 1] or [h, w, 3], of the same type.
    """
    top = np.iinfo(image.dtype).max
    colour = np.array(config.background, np.float32) * (top / 255)
    background = colour if image.shape[2] == 4 else np.dot(colour, LUMA)
    out = np.empty((*image.shape[:2], image.shape[2] - 1), image.dtype)
    rows = max(1, PIXELS // max(1, image.shape[1]))
    for first in range(0, len(image), rows):  # in parts, since floats take four times the room
        part = image[first : first + rows]
        shown = part[..., :-1].astype(np.float32)
        clear = 1 - part[..., -1:].astype(np.float32) / top
        shown += clear * (background if premultiplied else background - shown)
        out[first : first + rows] = np.rint(shown).clip(0, top)
    return out
