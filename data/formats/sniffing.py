"""Which format of images bytes are in, by their first ones: a file's name may be wrong."""

import re

FIRST_BYTES = 256  # as many as `kind_of` looks at

SIGNATURES = (
    ("jpg", rb"\xff\xd8\xff"),
    ("png", rb"\x89PNG\r\n\x1a\n"),
    ("webp", rb"RIFF....WEBP"),
    ("tif", rb"II\*\0|MM\0\*|II\+\0|MM\0\+"),  # 42; and 43, of more than 4 GiB
    ("npy", rb"\x93NUMPY"),
    ("gif", rb"GIF8[79]a"),
    ("bmp", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"),  # the length of its header
    ("ppm", rb"P[1-6]\s+(#|\d)"),
    ("jp2", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    ("avif", rb".{4}ftyp(avif|avis|.{8,60}avif)"),
    ("heic", rb".{4}ftyp(hei|hev|mif1|msf1)"),
    ("dcm", rb".{128}DICM"),
)
PATTERNS = tuple((suffix, re.compile(pattern, re.DOTALL)) for suffix, pattern in SIGNATURES)


def kind_of(content: bytes) -> str | None:
    """The usual suffix of the format of an image, such as "jpg" or "tif".

    Args:
        content: The image, or its first FIRST_BYTES bytes.

    Returns:
        The suffix without a dot: one of SIGNATURES. None if the bytes are no image that is known.
    """
    head = content[:FIRST_BYTES]
    return next((suffix for suffix, pattern in PATTERNS if pattern.match(head)), None)
