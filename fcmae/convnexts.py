"""The ConvNeXts of this project: their families, names and sizes.

Liu et al. 2022, arXiv 2201.03545 (V1, with LayerScale); Woo et al. 2023, arXiv 2301.00808 (V2, with
GRN).
"""

from dataclasses import dataclass

STRIDES = 8  # of the three downsamplings together


@dataclass(frozen=True)
class Size:
    """Numbers of blocks (depths) and of channels (widths) of the four stages."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]


# ConvNeXt V2, table 9 (appendix A.1); small and xlarge are V1's alone in the papers (section 3).
SIZES = {
    "atto": Size((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": Size((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": Size((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": Size((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": Size((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": Size((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": Size((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": Size((3, 3, 27, 3), (192, 384, 768, 1536)),
    "xlarge": Size((3, 3, 27, 3), (256, 512, 1024, 2048)),
    "huge": Size((3, 3, 27, 3), (352, 704, 1408, 2816)),
}
FAMILIES = ("convnextv2", "convnext")
NAMES = [f"{family}_{size}" for family in FAMILIES for size in SIZES]
