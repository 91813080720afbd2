"""The config of a pretraining run: what pretrain.py trains with, and what plan.py plans by."""

from dataclasses import dataclass, field
from pathlib import Path

from data.config import DataConfig
from fcmae.model_config import ModelConfig
from fcmae.run.optim import OptimConfig
from fcmae.run.options import ComputeConfig, RunConfig
from fcmae.run.ranges import Count, CountFrom0, Positive, Seed, Stage
from fcmae.weights.options import InitConfig

# What may differ when a run resumes: it changes no number, or only how long the run is.
MAY_CHANGE = (
    *("run.", "watch.", "dry_run", "threads", "deterministic"),
    *("data.workers", "data.source.", "data.max_bad_fraction"),
)
LENGTH = ("optim.epochs", "optim.steps")
FEWEST = 8  # images to watch, which are reconstructed


@dataclass(frozen=True, kw_only=True)
class PretrainRun(RunConfig):
    """What cannot change a number of pretraining."""

    dir: Path
    """Directory of the run: config, metrics, checkpoints, pictures."""
    picture_every: CountFrom0 = 500
    """Steps between reconstruction grids, also drawn at the end; 0 draws none."""
    cuda_graphs: bool = False
    """Have a GPU replay the passes of a step as two CUDA graphs, of the kernels that it would run
    anyway: for one process, where the host launches more slowly than the device computes. What a
    step holds in memory is kept for good."""
    recompute: tuple[Stage, ...] = ()
    """Stages (0 to 3) whose activations are computed again in the backward pass: a third more work
    there for less memory. The first stages are the large ones."""


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """What is measured now and then beside the loss; none of it changes a number."""

    images: CountFrom0 = 256
    """Training images that the run keeps in its directory watched/, and looks at again and again:
    their reconstructions and features, `rankme` and `alpha_req` of these, what excites channels.
    Short runs keep fewer, so that it takes at most 2 % of a run; 0, or from 8 on."""
    looks: Count = 16
    """Looks at these images: before the first step, after the last, and between them ever rarer,
    after logged steps. Short runs have fewer."""
    collapse_every: CountFrom0 = 0
    """Steps between measurements of the feature distance of each block; 0 for none."""
    knn_train: tuple[str, ...] = ()
    """Labelled shards, of a few thousand images, to look up neighbours in; none: no k-NN."""
    knn_test: tuple[str, ...] = ()
    """Labelled shards to classify; not those of a final test."""
    knn_every: Positive = 10.0
    """Passes over the data between two k-NNs, which are rounded to logged steps."""
    knn_k: Count = 20
    """The number of neighbours that vote."""

    def __post_init__(self) -> None:
        if 0 < self.images < FEWEST:
            raise ValueError(
                f"watch.images={self.images} must be at least {FEWEST}, or 0 to keep none"
            )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(ComputeConfig):
    """FCMAE pretraining."""

    data: DataConfig
    run: PretrainRun
    model: ModelConfig = field(default_factory=ModelConfig)
    init: InitConfig = field(default_factory=InitConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    seed: Seed = 0
    """Seed of initialisation, order, crops and masks."""
    dry_run: bool = False
    """Print config, model and memory, time the first 20 steps, and stop; writes nothing."""
