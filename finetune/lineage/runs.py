"""The runs of the lineage, each by the program that anybody would call, each made once.

From scratch a system is fine-tuned from random weights; pretrained, from those of its masked
pretraining on the same images, without labels. Each of these starts takes the learning rate that is
best on held-out training data, and is then trained over seeds on all of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data.sets import demo
from fcmae.run.config import differences, flags_of, to_tree
from fcmae.run.files import write_json
from fcmae.run.json_files import read_json
from fcmae.run.pieces import adding_seconds, strip
from fcmae.run.terminal import say
from finetune.lineage.config import MAY_CHANGE, LineageConfig
from finetune.lineage.systems import System

Origin = Literal["scratch", "pretrained"]
ORIGINS: tuple[Origin, ...] = ("scratch", "pretrained")
Program = Callable[[str, Sequence[str]], object]
SECONDS = "seconds.json"  # how long each run of a system has taken, over all calls
PROTOCOL = "protocol.json"  # the config that all runs share


@dataclass(frozen=True, kw_only=True)
class Start:
    """A system, and what its training on labels begins from."""

    config: LineageConfig
    """Of the command."""
    system: System
    """The network."""
    origin: Origin
    """Random weights, or pretrained ones."""

    @property
    def folder(self) -> Path:
        """The directory of the system."""
        return self.config.out / self.system.key

    @property
    def pretraining(self) -> Path:
        """The directory of the pretraining run."""
        return self.folder / "pretraining"

    def held_out(self, rate: float) -> Path:
        """The result of a training with this rate on a part of the training data."""
        return self.folder / f"{self.origin}-rate{rate:g}.json"

    def final(self, seed: int) -> Path:
        """The result of a final training."""
        return self.folder / f"{self.origin}-seed{seed}.json"

    def rate(self) -> float | None:
        """The rate of the final runs; None if the runs that choose it are not all there."""
        rates = self.config.rates
        if len(rates) == 1:
            return rates[0]
        if not all(self.held_out(rate).is_file() for rate in rates):
            return None
        return max(rates, key=lambda rate: accuracy_of(self.held_out(rate)))


def starts(config: LineageConfig, systems: Sequence[System]) -> Iterator[Start]:
    """All starts, those of a system together."""
    for system in systems:
        yield Start(config=config, system=system, origin="scratch")
        if system.encoder:
            yield Start(config=config, system=system, origin="pretrained")


def check_protocol(config: LineageConfig) -> None:
    """Check that the runs in the directory are of this protocol, or write it there.

    Raises:
        OSError: it cannot be read or written.
        ValueError: they are of another one.
    """
    path = config.out / PROTOCOL
    tree = to_tree(config)
    if path.is_file():
        differing = differences(read_json(path, dict), tree, ignore=MAY_CHANGE)
        if differing:
            raise ValueError(
                f"{config.out} holds runs of another protocol ({'; '.join(differing)}); choose"
                " another --out"
            )
    write_json(path, tree)


def make(start: Start, program: Program) -> None:
    """Pretrain, choose the rate and train over the seeds, except for what is there already.

    Args:
        start: what is trained.
        program: runs a command of `fcmae` with arguments.

    Raises:
        OSError, ValueError, FloatingPointError, SystemExit: see `fcmae finetune`.
    """
    if start.origin == "pretrained":
        done = start.pretraining / "done.json"
        if not done.is_file():
            with adding_seconds(start.folder / SECONDS, "pretraining"):
                program("pretrain", pretraining_flags(start))
            write_json(done, {})
    if len(start.config.rates) > 1:
        for rate in start.config.rates:
            train(start, program, start.held_out(rate), rate=rate, seed=0, report_on="held_out")
    rate = start.rate()
    assert rate is not None
    for seed in range(start.config.seeds):
        train(start, program, start.final(seed), rate=rate, seed=seed, report_on="test")


def train(
    start: Start, program: Program, out: Path, *, rate: float, seed: int, report_on: str
) -> None:
    """Train on labels, unless the result is there; of the run, its records are kept.

    Args:
        start: what is trained.
        program: runs a command of `fcmae` with arguments.
        out: the file of the result.
        rate: peak learning rate for a batch of 256.
        seed: of the run.
        report_on: "test" or "held_out".
    """
    if out.is_file():
        return
    say(f"{start.system.name}, {start.origin}: {out}")
    words = training_flags(start, out, rate=rate, seed=seed, report_on=report_on)
    with adding_seconds(start.folder / SECONDS, out.stem):
        program("finetune", words)
    strip(out.with_suffix(""))


def data_flags(config: LineageConfig) -> dict[str, Any]:
    """Where the labelled images are.

    Raises:
        FileNotFoundError: none are named, and this is no checkout, which has the embedded ones.
    """
    if config.train:
        return {"train": config.train, "test": config.test, "group": config.group}
    if not Path(demo.TEST).is_file():
        raise FileNotFoundError(
            f"{demo.TEST} does not exist: the embedded drawings come with a checkout; give --train"
            " and --test"
        )
    return {"train": [demo.TRAIN], "test": [demo.TEST], "group": "group"}


def images_of(start: Start) -> Mapping[str, Any]:
    """What the images of a system are, as flags of its model."""
    config, system = start.config, start.system
    stem = {} if system.stem_stride is None else {"stem_stride": system.stem_stride}
    return {"image_size": config.image_size, "in_chans": config.in_chans, **stem}


def pretraining_flags(start: Start) -> list[str]:
    """The command line of masked pretraining, without labels."""
    config = start.config
    return flags_of(
        {
            "data": {
                "train": data_flags(config)["train"],
                "mean": config.mean,
                "std": config.std,
                "workers": config.workers,
            },
            "model": {
                "name": start.system.encoder,
                "ratio": start.system.ratio,
                **images_of(start),
            },
            "optim": {
                "batch_size": config.batch_size,
                "steps": config.pretrain_steps,
                "warmup_epochs": "None",
                "base_lr": config.pretrain_rate,
            },
            "watch.images": 0,
            "precision": config.precision,
            "threads": config.threads,
            "run": {
                "dir": start.pretraining,
                "picture_every": 0,
                "save_every": "None",
                "save_minutes": 10,
                "keep": 1,
            },
        }
    )


def training_flags(start: Start, out: Path, *, rate: float, seed: int, report_on: str) -> list[str]:
    """The command line of a training on labels, the same for every system but for its network."""
    config, system = start.config, start.system
    weights: dict[str, Any] = {"weights": start.pretraining}
    if start.origin == "scratch":
        statistics = {"mean": config.mean, "std": config.std}
        named = {"backbone": system.backbone} if system.backbone else {}
        name = {} if system.backbone else {"name": system.encoder, "seed": seed}
        weights = {**named, "random": {**name, **images_of(start), **statistics}}
    return [
        "finetune/small",
        *flags_of(
            {
                **weights,
                "data": {**data_flags(config), "workers": config.workers},
                "optim": {
                    "batch_size": config.batch_size,
                    "epochs": config.epochs,
                    "warmup_epochs": "None",
                    "base_lr": rate,
                    "layer_decay": 1.0,
                    "clip_grad": 1.0,
                },
                "run": {"save_every": "None", "save_minutes": 10, "keep": 1},
                "precision": config.precision,
                "threads": config.threads,
                "seed": seed,
                "report_on": report_on,
                "out": out,
            }
        ),
    ]


def accuracy_of(result: Path) -> float:
    """The accuracy in a result.

    Raises:
        ValueError: the file is damaged.
    """
    return float(read_json(result, dict)["accuracy"])
