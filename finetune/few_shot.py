"""Few labels: probe and fine-tune on small parts of the training data, pretrained against random.

    accelerate launch --quiet -m finetune.few_shot scripts/recipes/finetune/small.yaml \
        --weights OUT.safetensors --data.train SHARDS --data.test SHARDS --out RESULT.json

For each size and seed the samples are drawn anew, the same for every start and method, with as many
of each class as it has in the whole. The pretrained and the random start have the same model; a
seed is that of the samples, the random start, the head and the order. Each of the runs leaves its
result in RESULT/; restarting the same command goes on. RESULT.png shows the table.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import Int
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fcmae.run.config import differences, parse, run_program, to_tree
from fcmae.run.files import write_json
from fcmae.run.processes import Processes
from fcmae.run.session import start_accelerator
from fcmae.weights.files import read_metadata
from finetune.frozen.linear import train_grid
from finetune.frozen.whitening import whiten
from finetune.labels.inference import Inference
from finetune.labels.labelled import Chosen
from finetune.labels.metrics import measure
from finetune.labels.results import spread
from finetune.models import classifier
from finetune.models.backbone import RandomConfig
from finetune.models.pooling import pooled
from finetune.training.classification import (
    TrainConfig,
    TrainingSamples,
    check_labels,
    images_of,
    read,
    sides,
    to_report_on,
    train,
)
from finetune.training.loop import MAY_CHANGE, FitOptimConfig, run_of

Method = Literal["probe", "finetune"]
TABLE = ("fractions", "per_class", "seeds", "methods", "metric")  # which runs, not what they are


@dataclass(frozen=True, kw_only=True)
class FewShotConfig(TrainConfig):
    """Learning from few labels."""

    optim: FitOptimConfig = field(default_factory=lambda: FitOptimConfig(steps=300))
    fractions: tuple[float, ...] = (0.01, 0.05, 0.1)
    """Shares of the training data, at least one sample of each class."""
    per_class: tuple[int, ...] = ()
    """Numbers of samples of each class, beside the shares."""
    seeds: int = 3
    """Repetitions; mean and spread are reported."""
    methods: tuple[Method, ...] = ("probe", "finetune")
    """probe: a linear layer on frozen features. finetune: everything is trained."""
    metric: str = "accuracy"
    """What is reported of finetune.train's measures; balanced_accuracy, macro_f1 or auc, say."""
    probe_lr: float = 1e-2
    """Of the linear layer, on whitened features; nothing is chosen where labels are few."""
    probe_weight_decay: float = 1e-2
    """Likewise."""
    probe_epochs: int = 300
    """Of the linear layer; each is a step on all of the samples."""


def draw(
    labels: Int[Tensor, " n"], size: float | int, generator: torch.Generator
) -> Int[Tensor, " k"]:
    """Places of a share of each class (a float), or of so many of each (an int).

    Raises:
        ValueError: a class has fewer, or a share outside (0, 1].
    """
    chosen = []
    for c in labels.unique().tolist():
        places = (labels == c).nonzero().flatten()
        if isinstance(size, float) and not 0 < size <= 1:
            raise ValueError(f"fractions has {size}, which must lie in (0, 1]")
        wanted = size if isinstance(size, int) else max(1, round(size * len(places)))
        if not 1 <= wanted <= len(places):
            raise ValueError(
                f"per_class has {wanted}, but class {c} has {len(places)} training samples: give"
                " fewer, or shares, --fractions"
            )
        chosen.append(places[torch.randperm(len(places), generator=generator)[:wanted]])
    return torch.cat(chosen)


def starts(config: FewShotConfig) -> dict[str, FewShotConfig]:
    """What is compared: the weights with the random start of the same model, or one backbone."""
    if config.backbone is not None:
        return {config.backbone.replace(":", "_").replace("/", "_"): config}
    if config.weights == "none":
        return {"random": config}
    of = read_metadata(Path(config.weights))
    random = RandomConfig(
        name=of.model,
        image_size=of.image_size,
        in_chans=of.in_chans,
        stem_stride=of.stem_stride,
        mean=of.mean,
        std=of.std,
    )
    return {"pretrained": config, "random": replace(config, weights="none", random=random)}


class Probe:
    """A linear layer on frozen features, whitened by all training images, which takes no label."""

    def __init__(
        self,
        config: FewShotConfig,
        labelled: TrainingSamples,
        held: Int[Tensor, " m"] | None,
        accelerator: Accelerator,
    ) -> None:
        model, metadata = classifier.create(config, labelled.task.outputs, config.seed)
        forward = partial(pooled, model.to(accelerator.device).eval(), pool="last")
        images = images_of(config, config.data.train, metadata, labelled.task)
        learned = Chosen(images, labelled.samples, replace=False)
        asked = to_report_on(config, labelled, held, metadata)
        found = Inference(learned, metadata, config.data, accelerator).outputs(forward)
        unseen = Inference(asked, metadata, config.data, accelerator).outputs(forward)
        self.answers = unseen.labels[unseen.whole]
        check_labels(labelled.task, self.answers, asked)
        found.rows[~found.whole] = found.rows[found.whole].mean(0)  # a bad image tells nothing
        self.learned, self.unseen = whiten(found.rows, unseen.rows[unseen.whole])
        self.labels = labelled.labels
        self.config = config
        self.task = labelled.task

    def measure(self, chosen: Int[Tensor, " k"], seed: int) -> dict[str, Any]:
        """Train the layer on these places of the training data, and measure."""
        (layer,) = train_grid(
            self.learned[chosen],
            self.labels[chosen],
            [(self.config.probe_lr, self.config.probe_weight_decay)],
            epochs=self.config.probe_epochs,
            batch_size=len(chosen),
            generator=torch.Generator().manual_seed(seed),
        )
        answers = self.task.answers(self.unseen @ layer[:-1] + layer[-1])
        return measure(self.task, answers, self.answers)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of the protocol."""

    start: str
    config: FewShotConfig
    """With this start and seed."""
    label: str
    size: float | int
    method: Method

    @property
    def column(self) -> str:
        """Of the table."""
        return f"{self.start} {self.method}"

    @property
    def out(self) -> Path:
        """The file of its result."""
        size = self.label.replace("%", "pc").replace(" ", "_")
        name = f"{size}-seed{self.config.seed}-{self.start}-{self.method}.json"
        return self.config.out.with_suffix("") / name


def cells(config: FewShotConfig) -> Iterator[Cell]:
    """All runs; those that share the features of a probe follow each other."""
    sizes: dict[str, float | int] = {f"{100 * share:g}%": share for share in config.fractions}
    sizes |= {f"{k} per class": k for k in config.per_class}
    for name, origin in starts(config).items():
        for seed in range(config.seeds):
            own = replace(origin, seed=seed, random=replace(origin.random, seed=seed))
            for (label, size), method in product(sizes.items(), config.methods):
                yield Cell(start=name, config=own, label=label, size=size, method=method)


def main(argv: Sequence[str]) -> None:
    """Run what is missing, and report."""
    config = parse(FewShotConfig, argv, description=str(__doc__))
    config.run.check()
    directory = run_of(config.out)
    if config.task.kind != "class":
        raise ValueError(f"task.kind={config.task.kind}: few-shot learning is of classes")
    if config.seeds < 1:
        raise ValueError(f"seeds={config.seeds} must be at least 1")
    processes = Processes(config.run.timeout)
    with processes.naming_the_lost():
        accelerator = start_accelerator(processes, config.run.trackers, directory)
        labelled = read(config, accelerator)
        learned, held = sides(config, labelled)
        results: dict[str, dict[str, list[float]]] = {}
        counts = dict[str, int]()
        probe: Probe | None = None  # of the start and the seed that come now
        for cell in cells(config):
            generator = torch.Generator().manual_seed(cell.config.seed)
            chosen = learned[draw(labelled.labels[learned], cell.size, generator)]
            (found,) = broadcast_object_list([cached_result(cell)])
            if found is None:
                if cell.method == "finetune":
                    found = train(of_run(cell), labelled, chosen, held, processes, accelerator)
                else:
                    if probe is None or probe.config != cell.config:
                        probe = Probe(cell.config, labelled, held, accelerator)
                    found = probe.measure(chosen, cell.config.seed)
                if accelerator.is_main_process:
                    content = {"config": to_tree(cell.config), "measured": found}
                    write_json(cell.out, content)
            if config.metric not in found:
                known = [key for key, value in found.items() if isinstance(value, float)]
                raise ValueError(f"metric={config.metric} is none of {', '.join(known)}")
            counts[cell.label] = len(chosen)
            row = results.setdefault(cell.label, {})
            row.setdefault(cell.column, []).append(found[config.metric])
        if accelerator.is_main_process:
            summary(config, results, counts)
        accelerator.end_training()


def cached_result(cell: Cell) -> dict[str, Any] | None:
    """What an earlier call has measured of this cell; None if it did not come so far.

    Raises:
        ValueError: the result was made with another config.
    """
    if not cell.out.is_file():
        return None
    cached = json.loads(cell.out.read_text())
    may_change = (*MAY_CHANGE, *TABLE)
    differing = differences(cached["config"], to_tree(cell.config), ignore=may_change)
    if differing:
        raise ValueError(
            f"{cell.out} was made with another config ({'; '.join(differing)}); choose another"
            " --out"
        )
    return cached["measured"]


def of_run(cell: Cell) -> TrainConfig:
    """The config of one fine-tuning."""
    kept: dict[str, Any] = {f.name: getattr(cell.config, f.name) for f in fields(TrainConfig)}
    kept["out"] = cell.out
    return TrainConfig(**kept)


def summary(
    config: FewShotConfig, results: dict[str, dict[str, list[float]]], counts: dict[str, int]
) -> None:
    """Write the results, print them as a table and draw them."""
    spreads = {
        size: {column: spread(values) for column, values in row.items()}
        for size, row in results.items()
    }
    content = {
        "weights": config.weights,
        "metric": config.metric,
        "samples": counts,
        "results": spreads,
    }
    write_json(config.out, content)
    columns = list(next(iter(spreads.values())))
    table = Table("labels", *columns, title=f"{config.metric}, {config.seeds} seeds")
    for size, row in spreads.items():
        cells = (f"{row[c]['mean']:.3f} ± {row[c]['std']:.3f}" for c in columns)
        table.add_row(f"{size} ({counts[size]})", *cells)
    Console().print(table)
    draw_curves(config.out.with_suffix(".png"), config.metric, spreads, counts)


def draw_curves(
    path: Path,
    metric: str,
    spreads: dict[str, dict[str, dict[str, Any]]],
    counts: dict[str, int],
) -> None:
    """Mean and standard deviation against the number of labels, one curve a start and method."""
    mpl.use("agg")
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    sizes = sorted(spreads, key=counts.__getitem__)
    for column in spreads[sizes[0]]:
        points = [spreads[size][column] for size in sizes]
        axes.errorbar(
            [counts[size] for size in sizes],
            [point["mean"] for point in points],
            [point["std"] for point in points],
            marker="o",
            capsize=3,
            label=column,
        )
    axes.set(xscale="log", xlabel="labels", ylabel=metric)
    axes.legend()
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    run_program(main)
