import numpy as np
import pytest

from data.shards.moments import Moments


@pytest.mark.parametrize("chans", [1, 2, 3, 4, 13])
def test_sums_are_those_of_plain_sums_to_the_last_bit(chans: int) -> None:
    image = np.random.default_rng(0).normal(size=(33, 61, chans)).astype(np.float32)
    interleaved = image.transpose(2, 0, 1)
    pixels = interleaved.reshape(chans, -1).astype(np.float64)
    moments = Moments.of(interleaved)
    assert moments.sums == tuple(pixels.sum(1).tolist())
    assert moments.squares == tuple(np.square(pixels).sum(1).tolist())
