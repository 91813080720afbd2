"""The median aspect is said, and what becomes of images that are very long."""

import random
from collections import Counter

import pytest

from data.making.aspects import LONG, aspect_of, describe_aspects
from data.transforms import Crop


def test_the_median_aspect_and_long_images_are_named():
    aspects = Counter(aspect_of(*size) for size in ((200, 3000), (30, 40), (40, 30)))
    median, warning = describe_aspects(aspects)
    assert median == "median aspect 1.33, longer over shorter side"
    assert warning.startswith("1 of 3 images have an aspect above 6.7: no random crop of a fifth")
    assert describe_aspects(Counter({aspect_of(200, 1300): 4})) == [
        "median aspect 6.50, longer over shorter side"
    ]


@pytest.mark.parametrize(("aspect", "fits"), [(0.97 * LONG, True), (1.02 * LONG, False)])
def test_beyond_that_aspect_no_crop_of_a_fifth_fits(aspect, fits):
    crop = Crop((0.2, 1.0), False)
    width = round(300 * aspect)
    rng = random.Random(0)
    shares = [
        h * w / (300 * width) for _, _, h, w in (crop.box(300, width, rng) for _ in range(3000))
    ]
    # the box of a crop that does not fit has the same area, of 4/3 times the square of 300
    areas = {round(share, 4) for share in shares}
    assert (len(areas) > 1) == fits
