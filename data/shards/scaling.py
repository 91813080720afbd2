"""The statistics of shards on the scale of a run's pixels, and pixels that are on another one."""

import shlex
from collections.abc import Callable, Sequence

from data.config import IMAGENET_MEAN, DataConfig, check_statistics
from data.shards.depth import ODD, Depth
from data.shards.index import Shard, merged_moments
from data.shards.moments import Moments

CONSTANT = 1e-6  # of the mean: a deviation below it is what sums have rounded


def statistics_for(
    config: DataConfig, shards: Sequence[Shard], say: Callable[[str], object]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and standard deviation of each channel, as the config gives them or the shards do.

    Args:
        config: How pixels are read and normalised.
        shards: The shards of the training.
        say: Prints a line on what is assumed: a constant channel of the shards has the deviation 1.

    Raises:
        ValueError: The index of a shard has no statistics, or those of other pixels; or the config
            or the pixels are on another scale than the mean.
    """
    check_statistics(config.mean, config.std)
    check_scale(config)
    depths = [s.moments.depth for s in shards if s.moments is not None and s.moments.depth]
    if depths:
        check_depth(config, Depth.merge(depths), say)
    if config.mean and config.std:
        return config.mean, config.std
    mean, std = scaled(merged_moments(shards), config)
    for i, (m, s) in enumerate(zip(mean, std, strict=True)):
        if s <= CONSTANT * abs(m) and not config.std:
            say(f"channel {i} of the shards is constant, {m:.4g}: it is trained with scale 1")
    std = tuple(1.0 if s <= CONSTANT * abs(m) else s for m, s in zip(mean, std, strict=True))
    return config.mean or mean, config.std or std


def check_scale(config: DataConfig) -> None:
    """Check what the config alone shows.

    Raises:
        ValueError: Mean or standard deviation are on the scale 0 to 255 while pixels are on 0 to 1;
            or missing pixels would have to fit into 8 bits.
    """
    if config.nodata is not None and config.pixels == "uint8":
        raise ValueError(
            f"data.nodata={config.nodata:g}: missing pixels do not fit into 8 bits; take"
            " --data.pixels float32"
        )
    if config.pixels == "float32" and config.range is None:
        return  # floats may be on any scale
    for name, values in (("mean", config.mean), ("std", config.std)):
        for value in values:
            if abs(value) > 1:
                raise ValueError(
                    f"data.{name} has {value:g}, but pixels are on the scale 0 to 1: divide it by"
                    f" 255, as {value / 255:.3f}"
                )


def check_depth(config: DataConfig, depth: Depth, say: Callable[[str], object]) -> None:
    """Check what was measured of the values that the shards store.

    Raises:
        ValueError: They are floats or integers far beyond the scale of ImageNet's mean.
    """
    if config.range is not None:
        return
    low, high = depth.low, depth.high
    scaled_by_type = depth.types == ("uint16",)
    if config.pixels == "uint8" and scaled_by_type and depth.advice():
        say(f"8 bits keep few levels: {depth.advice()}")
    odd = low < -ODD or high > ODD
    if config.pixels == "float32" and not scaled_by_type and odd and config.mean == IMAGENET_MEAN:
        raise ValueError(
            f"the shards hold values from {low:g} to {high:g}, which data.mean"
            f" {' '.join(map(str, IMAGENET_MEAN))} does not fit: give --data.range {low:g} {high:g}"
            " or empty --data.mean --data.std for the shards' own"
        )


def scaled(moments: Moments, config: DataConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation as they are once a run has scaled the pixels to its range.

    Raises:
        ValueError: They were measured with other missing values, or with another range, whose
            pixels the range of the run would clip.
    """
    mean, std = moments.mean(), moments.std()
    if config.nodata == moments.nodata and config.range == moments.range:
        return mean, std
    own, depth = moments.own, moments.depth
    if config.range is None or own is None or config.nodata != moments.nodata or moments.range:
        raise ValueError(remeasure(config))
    first, last = (depth.low, depth.high) if depth else own
    low, high = config.range
    if first < low or last > high:
        raise ValueError(remeasure(config))
    unit = own[1] - own[0]
    return (
        tuple((own[0] + m * unit - low) / (high - low) for m in mean),
        tuple(s * unit / (high - low) for s in std),
    )


def remeasure(config: DataConfig) -> str:
    """The error of statistics that were measured in another way, with the way out."""
    given = f" --range {config.range[0]:g} {config.range[1]:g}" if config.range else ""
    given += "" if config.nodata is None else f" --nodata {config.nodata:g}"
    return (
        "the statistics of the shards are those of other pixels: measure them with"
        f" fcmae shards index {shlex.join(config.train)} --statistics{given}, or give data.mean and"
        " data.std"
    )
