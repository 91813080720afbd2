"""How much longer images are than wide, and what becomes of very long ones in training."""

from collections import Counter
from statistics import median

# of --data.scale's smallest share, 0.2, and the narrowest shape, 3/4: sqrt(0.2 * LONG * 3/4) = 1
LONG = 20 / 3


def aspect_of(height: int, width: int) -> str:
    """The longer side over the shorter one, to two places: a text, for a key of JSON."""
    return f"{max(height, width) / min(height, width):.2f}"


def describe_aspects(aspects: Counter[str]) -> list[str]:
    """Say the median aspect, and what happens to images that are longer than LONG.

    Args:
        aspects: How many images have each aspect, as `aspect_of` gives it.
    """
    lines = [
        f"median aspect {median(map(float, aspects.elements())):.2f}, longer over shorter side"
    ]
    long = sum(count for aspect, count in aspects.items() if float(aspect) > LONG)
    if long:
        lines.append(
            f"{long} of {aspects.total()} images have an aspect above {LONG:.1f}: no random crop of"
            " a fifth of such an image fits into it, so pretraining takes one about as long as its"
            " shorter side, at a place that is drawn, and probes and predictions see its centre"
            " alone: take --data.fit tiles, pad or squash there, or cut such images into pieces"
        )
    return lines
