"""Tensors as pictures that a page holds in its text: PNG, colours of a map, the bar of them."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from fcmae.sheet import as_rgb, to_image

COLOURS = colormaps["viridis"]  # even in lightness, and for the colour-blind


@dataclass(frozen=True)
class Drawn:
    """A map in colours: the address of its picture, and the values of both ends of the bar."""

    url: str
    low: float
    high: float


def png(image: Image.Image) -> bytes:
    """The bytes of a picture as PNG."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def url_of(image: Image.Image) -> str:
    """The address of a picture that is in the address itself."""
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"


def pillow(image: Float[Tensor, "c h w"]) -> Image.Image:
    """A picture of Pillow out of an image of any channels on the scale 0 to 1."""
    return to_image(as_rgb(image.cpu()))


def coloured(values: Float[Tensor, "h w"]) -> Drawn:
    """A map from its lowest value to its highest, transparent where it is NaN."""
    array = values.float().cpu().numpy()
    low, high = float(np.nanmin(array)), float(np.nanmax(array))
    scaled = (array - low) / max(high - low, 1e-12)
    rgba = COLOURS(np.nan_to_num(scaled), bytes=True)
    rgba[np.isnan(array), 3] = 0
    return Drawn(url_of(Image.fromarray(rgba)), low, high)


def bar() -> Image.Image:
    """The colours of all values, the lowest on the left."""
    return Image.fromarray(COLOURS(np.linspace(0, 1, 256)[None], bytes=True))
