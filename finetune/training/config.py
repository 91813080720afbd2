"""What users choose of fine-tuning; a help text shows it without torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fcmae.run.optim import OptimConfig
from fcmae.run.options import ComputeConfig, RunConfig
from fcmae.run.ranges import (
    Batch,
    Byte,
    Classes,
    Count,
    CountFrom0,
    Extent,
    Length,
    NotNegative,
    Positive,
    Seed,
    Share,
    ShareAbove0,
    ShareBelow1,
)
from finetune.labels.config import LabelledData, TaskConfig
from finetune.models.config import BackboneConfig, By, Pool

Side = Literal["test", "held_out"]
Method = Literal["probe", "finetune"]
Origin = Literal["pretrained", "random"]
Classifier = Literal["linear", "ridge", "nearest"]

WEIGHTS = "weights.safetensors"  # the fine-tuned model, in the directory of its run
# What may differ when a run resumes: it changes no number.
MAY_CHANGE = (
    *("run.", "out", "threads", "deterministic", "data.source."),
    *("data.workers", "data.max_bad_fraction", "data.batch_size"),
)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentations of fine-tuning; by default those of the paper for the small models, and with
    few labels, where these hide too much, gentle ones."""

    scale: tuple[ShareAbove0, ShareAbove0] = (0.08, 1.0)
    """Share of the image's area that a random crop keeps: from, to."""
    flip: bool = True
    """Mirror half of the images left to right."""
    rand_augment: str = "rand-m9-mstd0.5-inc1"
    """timm's RandAugment, or another of its policies; empty: none."""
    erasing: Share = 0.25
    """Share of the images of which a box is replaced by noise."""
    mixup: NotNegative = 0.0
    """alpha of mixup; 0: none."""
    cutmix: NotNegative = 0.0
    """alpha of CutMix; 0: none. With both, half of the batches get one and half the other."""


@dataclass(frozen=True, kw_only=True)
class FitOptimConfig(OptimConfig):
    """The optimiser and its schedule. The defaults are for hundreds to thousands of labels."""

    batch_size: Batch = 32
    """Images a step over all processes and accumulated micro-batches."""
    epochs: Positive = 50.0
    """Length of the run in passes over the data, unless steps is given."""
    warmup_epochs: Length | None = 5.0
    """Linear warm-up in passes over the data. None makes it a tenth of the run, and so does a
    length that is not shorter than the run; if steps is given, it is at most a tenth."""
    base_lr: NotNegative = 4e-3
    """Peak learning rate for a batch of 256; it grows in proportion to batch_size."""
    betas: tuple[ShareBelow1, ShareBelow1] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    ema: ShareBelow1 | None = None
    """Decay of an average of the weights over the steps, which is what is evaluated and written;
    0.9999 is usual in long runs. None keeps none."""
    layer_decay: ShareAbove0 = 0.9
    """Learning rate of a layer as a share of that of the next one; 1: all layers have the same."""
    frozen_steps: CountFrom0 = 0
    """Steps at the beginning in which the head alone learns, while the rest stays as the weights
    have it."""
    layer_decay_by: By = "layer"
    """layer: each block is a layer. group: three blocks are one, as in the paper for base and
    larger models."""


@dataclass(frozen=True, kw_only=True)
class FitConfig(ComputeConfig):
    """What training a model with a head takes, whatever the head."""

    optim: FitOptimConfig = field(default_factory=FitOptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    run: RunConfig = field(default_factory=RunConfig)
    seed: Seed = 0
    """Seed of the head, the order, crops, augmentations and stochastic depth."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(FitConfig, BackboneConfig):
    """Fine-tuning on labels of whole images."""

    data: LabelledData
    out: Path
    """The JSON file to write; the run lies in a directory of its name, without .json."""
    task: TaskConfig = field(default_factory=TaskConfig)
    pool: Pool = "last"
    """What the head takes. last: the last stage, averaged over positions. grid2, grid3: averaged
    over each of 2 x 2 or 3 x 3 cells, side by side, which tell where things are, so that the last
    layer takes four or nine times as many values. stages: the averages of all four stages, for the
    probe of few labels alone."""
    report_on: Side = "test"
    """held_out: learn from the training data without a share of it, data.held_out, and report on
    that share; for choosing hyper-parameters, since the test data is not read then."""

    def __post_init__(self) -> None:
        if self.pool == "stages":
            raise ValueError(
                "pool=stages is for frozen features: the head of fine-tuning takes --pool last,"
                " grid2 or grid3"
            )


@dataclass(frozen=True, kw_only=True)
class SegmentConfig(FitConfig, BackboneConfig):
    """Fine-tuning for segmentation."""

    data: LabelledData
    out: Path
    """The JSON file to write; the run lies in a directory of its name, without .json."""
    classes: Classes | None = None
    """Number of classes, where no classes.json beside the shards names them."""
    mask_values: tuple[Byte, ...] = ()
    """The value of a mask that stands for each class, in their order, as 0 255 for two classes; by
    default the values are the classes' numbers. A 255 that is not among them is ignored."""
    head_width: Extent = 128
    """Channels of the head, a multiple of 32."""
    head_init_scale: NotNegative = 1.0
    """The weights of the head's last layer, of standard deviation 0.02, times this."""
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(scale=(0.25, 1.0), rand_augment="", erasing=0.0)
    )
    report_on: Side = "test"
    """held_out: learn from the training data without a share of it, data.held_out, and report on
    that share; for choosing hyper-parameters, since the test data is not read then."""


@dataclass(frozen=True, kw_only=True)
class FewShotConfig(TrainConfig):
    """Learning from few labels."""

    optim: FitOptimConfig = field(default_factory=lambda: FitOptimConfig(steps=300))
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(scale=(0.4, 1.0), rand_augment="", erasing=0.0)
    )
    fractions: tuple[ShareAbove0, ...] = (0.01, 0.05, 0.1)
    """Shares of the training data, at least one sample of each class."""
    per_class: tuple[Count, ...] = ()
    """Numbers of samples of each class, beside the shares."""
    seeds: Count = 3
    """Repetitions; mean and spread are reported."""
    methods: tuple[Method, ...] = ("probe", "finetune")
    """probe: a linear layer on frozen features. finetune: everything is trained."""
    starts: tuple[Origin, ...] = ("pretrained", "random")
    """pretrained: the weights. random: the random initialisation of the same model."""
    metric: str = "accuracy"
    """Which of fine-tuning's measures is reported; balanced_accuracy, macro_f1 or auc, say."""
    probe_classifier: Classifier = "linear"
    """What the probe learns of features. linear: a layer, by cross-entropy. ridge: a layer, by
    least squares. nearest: the mean of each class, by cosine."""
    probe_features: Literal["whitened", "standardised"] = "whitened"
    """What the probe makes of features, by all training images, which takes no label. whitened:
    zero mean, unit covariance. standardised: zero mean and unit variance of each."""
    probe_ridge: NotNegative = 1.0
    """Strength of the ridge of least squares, in mean squared lengths of a sample's features."""
    probe_lr: NotNegative = 1e-2
    """Learning rate of the probe, which learns from whitened features; it is not chosen on held-out
    data, since labels are few."""
    probe_weight_decay: NotNegative = 1e-2
    """Weight decay of the probe, which is not chosen either."""
    probe_epochs: Count = 300
    """Passes of the probe over its samples; each is one step on all of them."""

    def __post_init__(self) -> None:
        if "finetune" in self.methods:
            super().__post_init__()


def check_side(data: LabelledData, report_on: Side) -> None:
    """Check that there is something to report on.

    Args:
        data: what is learned from, and reported on.
        report_on: held_out needs no test data.

    Raises:
        ValueError: the test data are to be reported on, and there are none.
    """
    if report_on == "test":
        data.check_test(instead=", or --report_on held_out, for a share of the training data")


def run_of(out: Path) -> Path:
    """The directory of the run whose result is written to `out`: the same path without `.json`.

    Raises:
        ValueError: `out` does not end in `.json`, so that the two would be one path.
    """
    if out.suffix != ".json":
        raise ValueError(f"out={out} must end in .json")
    return out.with_suffix("")
