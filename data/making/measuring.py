"""Measuring the pixels of a shard while it is made or indexed."""

from dataclasses import replace

import numpy as np
from jaxtyping import Shaped

from data.config import StoredConfig
from data.shards.depth import DepthMeter
from data.shards.moments import Moments
from data.values import own_range, to_floats


class Measure:
    """The statistics of the images that it is given.

    Args:
        config: The range and the value of missing pixels that are measured with.
    """

    def __init__(self, config: StoredConfig) -> None:
        self.config = config
        self.parts: list[Moments] = []
        self.depth = DepthMeter()

    def add(self, stored: Shaped[np.ndarray, "h w c"]) -> None:
        """Take one image, of the type and the values of its file.

        Raises:
            ValueError: Some values are infinite.
        """
        image = to_floats(stored, self.config).transpose(2, 0, 1)
        self.parts.append(Moments.of(image, own_range(stored.dtype)))
        self.depth.add(stored, self.config.nodata)

    def moments(self) -> Moments:
        """The statistics of all images so far, of which there must be one at least."""
        return replace(
            Moments.merge(self.parts),
            range=self.config.range,
            nodata=self.config.nodata,
            depth=self.depth.depth(),
        )
