"""Learning from few labels: runs on small parts of the training data, each with its result kept.

A run is a cell of a table: how many labels, which start, which method, which seed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import Float, Int
from torch import Tensor

from data.making.cached import as_shards
from data.shards.reading import open_shards
from fcmae.run.checkpoint import latest
from fcmae.run.processes import Processes
from fcmae.run.training_data import digest
from fcmae.run.waiting import counted
from fcmae.weights.metadata import Metadata
from finetune.frozen.few import nearest_mean, ridge
from finetune.frozen.held_out import sides
from finetune.frozen.linear import train_grid
from finetune.frozen.whitening import standardise, whiten
from finetune.labels.config import reading_of, resolved
from finetune.labels.inference import Inference
from finetune.labels.labelled import Chosen
from finetune.labels.metrics import measure, names_of_measures
from finetune.labels.results import Picture, draw_beside
from finetune.models import classifier
from finetune.models.config import RandomConfig
from finetune.models.pooling import pooled
from finetune.training.cell import Cell, read_result, write_result
from finetune.training.classification import (
    CONFUSION,
    TrainingSamples,
    images_of,
    read,
    to_report_on,
    train,
)
from finetune.training.config import FewShotConfig, TrainConfig, run_of
from finetune.training.curves import Curves


def few_shot(config: FewShotConfig, processes: Processes, accelerator: Accelerator) -> Curves:
    """Run the cells that have no result yet, and collect the results of all.

    Args:
        config: of the program.
        processes: that were launched.
        accelerator: of these processes.

    Raises:
        OSError, FloatingPointError: see `finetune.training.classification.train`.
        ValueError: see the same, `draw` and `read_result`; or no such metric is measured.
    """
    data = config.data
    labelled = read(
        data, config.task, accelerator, report_on=config.report_on, verify=config.run.verify
    )
    learned, validation = sides(labelled.groups, config.report_on, data.held_out, config.seed)
    contents = contents_of(config)
    known = names_of_measures(labelled.task)
    if config.metric not in known:
        raise ValueError(f"metric={config.metric} is none of {', '.join(known)}")
    runs = list[tuple[Cell, Tensor]]()
    for cell in cells(config):  # all before the first, since a class may have too few samples
        generator = torch.Generator().manual_seed(cell.config.seed)
        places = draw(labelled.labels[learned], labelled.task.names, cell.size, generator)
        runs.append((cell, learned[places]))
    curves = Curves(config.metric)
    probe: Probe | None = None  # of the start that comes now
    going = counted(enumerate(runs, 1), "comparing starts on few labels", len(runs), "runs")
    for number, (cell, chosen) in going:
        kept = read_result(cell, contents, accelerator.print)
        measured, drawn = broadcast_object_list([kept, is_drawn(cell)])
        if measured is None or not drawn:
            accelerator.print(
                f"run {number} of {len(runs)}: {cell.column}, {len(chosen)} labels"
                f" ({cell.label}), seed {cell.config.seed}"
            )
            picture: Picture | None = None
            if cell.method == "finetune":
                measured, picture = train(
                    of_run(cell), labelled, chosen, validation, processes, accelerator
                )
            else:
                if probe is None or not probe.serves(cell.config):
                    probe = Probe(cell.config, labelled, validation, accelerator)
                measured = probe.measure(chosen, cell.config.seed)
            if accelerator.is_main_process:
                write_result(cell, contents, measured)
                if picture is not None:
                    draw_beside(picture, cell.out)
        curves.add(cell.label, cell.column, len(chosen), measured)
    return curves


def is_drawn(cell: Cell) -> bool:
    """Whether a run needs no picture any more: it has one or none, or cannot go on to draw it."""
    directory = run_of(cell.out)
    drawn = (directory / CONFUSION).exists()
    return cell.method != "finetune" or drawn or latest(directory) is None


def draw(
    labels: Int[Tensor, " n"],
    names: Sequence[str],
    size: float | int,
    generator: torch.Generator,
    instead: str = ", or shares, --fractions",
) -> Int[Tensor, " k"]:
    """Draw a part of each class.

    Args:
        labels: the classes of all samples.
        names: of the classes.
        size: a share of each class, as a float, or a number of samples of each, as an int.
        generator: what is drawn with.
        instead: another way out where a class has fewer samples, which ends the message.

    Returns:
        The places of the samples among `labels`.

    Raises:
        ValueError: a class has fewer samples, or a share outside (0, 1].
    """
    chosen = []
    for c in labels.unique().tolist():
        places = (labels == c).nonzero().flatten()
        if isinstance(size, float) and not 0 < size <= 1:
            raise ValueError(f"fractions has {size}, which must lie in (0, 1]")
        wanted = size if isinstance(size, int) else max(1, round(size * len(places)))
        if not 1 <= wanted <= len(places):
            raise ValueError(
                f"per_class has {wanted}, but class {names[c]} has {len(places)} training samples:"
                f" give fewer{instead}"
            )
        chosen.append(places[torch.randperm(len(places), generator=generator)[:wanted]])
    return torch.cat(chosen)


def starts(config: FewShotConfig, metadata: Metadata) -> dict[str, FewShotConfig]:
    """What is compared, by name: the weights and the random start of the same model, or a backbone.

    Args:
        config: of the program.
        metadata: of the weights.
    """
    if config.backbone is not None:
        return {config.backbone.replace(":", "_").replace("/", "_"): config}
    if config.weights == "none":
        return {"random": config}
    model = asdict(metadata.architecture)
    random = RandomConfig(**model, mean=metadata.mean, std=metadata.std)
    both = {"pretrained": config, "random": replace(config, weights="none", random=random)}
    return {origin: both[origin] for origin in config.starts}


def cells(config: FewShotConfig) -> Iterator[Cell]:
    """All runs; those that share the features of a probe follow each other.

    How files are read stands in the config of each, whether a flag or the weights tell it.

    Raises:
        OSError, ValueError: the weights cannot be used.
    """
    sizes: dict[str, float | int] = {f"{100 * share:g}%": share for share in config.fractions}
    sizes |= {f"{k} per class": k for k in config.per_class}
    metadata = classifier.start_metadata(config)
    told = reading_of(metadata, "data.")
    config = replace(config, data=resolved(config.data, metadata))
    for name, origin in starts(config, metadata).items():
        for seed in range(config.seeds):
            own = replace(origin, seed=seed, random=replace(origin.random, seed=seed))
            for (label, size), method in product(sizes.items(), config.methods):
                yield Cell(start=name, config=own, label=label, size=size, method=method, told=told)


def contents_of(config: FewShotConfig) -> dict[str, str]:
    """A hash of the shards of each side, of which all results are made.

    Raises:
        OSError, ValueError: see `data.shards.reading.open_shards`.
    """
    data = config.data
    specs = {"train": data.train}
    if config.report_on == "test":  # else it is not read
        specs["test"] = data.test
    share = data.max_bad_fraction
    shards = {side: as_shards(spec, data.source, max_broken=share) for side, spec in specs.items()}
    return {
        side: digest(open_shards(spec, False, data.source, data.image))
        for side, spec in shards.items()
    }


def of_run(cell: Cell) -> TrainConfig:
    """The config of the one fine-tuning that a cell is."""
    kept: dict[str, Any] = {f.name: getattr(cell.config, f.name) for f in fields(TrainConfig)}
    kept["out"] = cell.out
    return TrainConfig(**kept)


class Probe:
    """A linear layer on frozen features, whitened by all training images, which takes no label.

    Args:
        config: with the start and the seed of the model.
        labelled: the training samples.
        validation: places among them to report on; None for the test data.
        accelerator: of the processes, each of which has to make the probe.
    """

    def __init__(
        self,
        config: FewShotConfig,
        labelled: TrainingSamples,
        validation: Int[Tensor, " m"] | None,
        accelerator: Accelerator,
    ) -> None:
        model, metadata = classifier.create(
            config, labelled.task.outputs, config.seed, accelerator.print
        )
        forward = partial(pooled, model.to(accelerator.device).eval(), pool=config.pool)
        images = images_of(config.data.train, config.data, metadata, labelled.task)
        learned = Chosen(images, labelled.samples, replace=False)
        unseen = to_report_on(config.data, labelled, validation, metadata)
        train = Inference(learned, metadata, config.data, accelerator).outputs(model, forward)
        test = Inference(unseen, metadata, config.data, accelerator).outputs(model, forward)
        self.test_labels = test.labels[test.whole]
        train.rows[~train.whole] = train.rows[train.whole].mean(0)  # a bad image tells nothing
        prepare = whiten if config.probe_features == "whitened" else standardise
        self.train_x, self.test_x = prepare(train.rows, test.rows[test.whole])
        self.train_labels = labelled.labels
        self.config = config
        self.task = labelled.task

    def serves(self, config: FewShotConfig) -> bool:
        """Whether the features are those of this config, too: weights know no seed."""
        mine, other = (
            replace(c, seed=0, random=RandomConfig()) if c.weights != "none" else c
            for c in (self.config, config)
        )
        return mine == other

    def measure(self, chosen: Int[Tensor, " k"], seed: int) -> dict[str, Any]:
        """Train the layer on these places of the training data, and measure."""
        answers = self.task.answers(self.scores(chosen, seed))
        return measure(self.task, answers, self.test_labels)

    def scores(self, chosen: Int[Tensor, " k"], seed: int) -> Float[Tensor, "m c"]:
        """The scores of the classes for what is reported on, learned from these places."""
        config = self.config
        x, labels, classes = self.train_x[chosen], self.train_labels[chosen], self.task.outputs
        if config.probe_classifier == "ridge":
            return ridge(x, labels, classes, self.test_x, config.probe_ridge)
        if config.probe_classifier == "nearest":
            return nearest_mean(x, labels, classes, self.test_x)
        (layer,) = train_grid(
            x,
            labels,
            [(config.probe_lr, config.probe_weight_decay)],
            epochs=config.probe_epochs,
            batch_size=len(chosen),
            generator=torch.Generator().manual_seed(seed),
        )
        return self.test_x @ layer[:-1] + layer[-1]
