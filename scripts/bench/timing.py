"""Times of several works, taken in turn."""

import time
from collections.abc import Callable

Work = Callable[[], object]


def seconds(work: Work) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(works: tuple[Work, ...], runs: int) -> list[list[float]]:
    """Times of each work in seconds, taken in turn so that drifts of the machine meet them all."""
    for work in works:
        work()
    rounds = [[seconds(work) for work in works] for _ in range(runs)]
    return [list(times) for times in zip(*rounds, strict=True)]
