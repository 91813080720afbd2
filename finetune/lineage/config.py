"""What users choose of the lineage; a help text shows it without torch."""

from dataclasses import dataclass
from pathlib import Path

from data.config import WorkerCount
from fcmae.run.options import Precision
from fcmae.run.ranges import Batch, Count, CountFrom0, Extent, NotNegative, Positive, Real
from fcmae.run.threads import ThreadsConfig

# What may differ when the command is called again: it changes no number, or only which there are.
MAY_CHANGE = (
    "systems",
    "seeds",
    "out",
    "sizes",
    "timed_runs",
    "workers",
    "results_page",
    "threads",
)


@dataclass(frozen=True, kw_only=True)
class LineageConfig(ThreadsConfig):
    """Train the line of networks from LeNet-5 to ConvNeXt V2 under one protocol, and compare."""

    systems: tuple[str, ...] = ()
    """The systems to train and measure, by their keys, such as lenet5 resnet18 convnextv2; by
    default all of them."""
    train: tuple[str, ...] = ()
    """Labelled shards or folders to learn from; by default the embedded drawings of a checkout."""
    test: tuple[str, ...] = ()
    """Labelled shards or folders to report on, read once by each final run."""
    group: str = ""
    """Field of the json member: samples that share its value stay on one side when training data is
    held out; empty: no groups. The embedded drawings have theirs."""
    out: Path = Path("runs/lineage")
    """Directory of all runs, results and the page."""
    image_size: Extent = 64
    """Side of the images in pixels, for every system: a multiple of 32, at least 64."""
    in_chans: Extent = 3
    """Number of channels of the images."""
    mean: tuple[Real, ...] = (0.5,)
    """Mean of each channel on the scale 0 to 1, or one value for all."""
    std: tuple[NotNegative, ...] = (0.25,)
    """Standard deviation of each channel, or one value for all."""
    seeds: Count = 3
    """Final runs of each start of each system; mean and spread are reported."""
    epochs: Positive = 5.0
    """Length of each training on labels in passes over the data."""
    batch_size: Batch = 32
    """Images a step, of pretraining too."""
    rates: tuple[NotNegative, ...] = (2e-3, 1.6e-2)
    """Peak learning rates for a batch of 256. Each start of each system takes the one that is best
    on held-out training data, in a run of its own for each; a single rate needs none."""
    pretrain_steps: Count = 2000
    """Length of each masked pretraining in steps."""
    pretrain_rate: NotNegative = 8e-3
    """Peak learning rate of pretraining for a batch of 256."""
    precision: Precision = "fp32"
    """bf16 and fp16 are mixed precision."""
    sizes: tuple[Extent, ...] = (64, 128, 192, 256, 320, 384, 448)
    """Sides of images in pixels, multiples of 32, for which FLOPs and time are measured."""
    timed_runs: CountFrom0 = 3
    """Timed training steps at each size; 0 counts FLOPs alone."""
    workers: WorkerCount = 2
    """Processes that decode images."""
    results_page: bool = False
    """Write the table and the picture into the page of results of this checkout, too, and the
    numbers beside it. What is there already, of this protocol, is not made again."""

    def __post_init__(self) -> None:
        if bool(self.train) != bool(self.test):
            raise ValueError("train and test belong together: give both, or neither")
        for size in (self.image_size, *self.sizes):
            if size < 64 or size % 32:
                raise ValueError(f"a side of {size} pixels must be a multiple of 32, at least 64")
