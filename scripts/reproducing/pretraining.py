"""Pretrainings as runs of a set: the recipe of a data set, with flags, and weights at the end."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from fcmae.run.config import flags_of
from fcmae.run.metrics import read_metrics
from scripts.reproducing.data_sets import DataSet
from scripts.reproducing.results import Results
from scripts.reproducing.runs import Call, Run
from scripts.reproducing.setting import Setting

IMAGES_PER_S = 100.0  # of atto in 16 patches: the quickstart's pretraining on two cores, 111
BF16 = {"precision": "bf16"}
BF16_COST = 0.6  # of a step in it on a processor that multiplies in it: 197 against 120 images/s
WEIGHTS = "encoder.safetensors"
LAST = 10  # lines of metrics whose mean loss is kept


def pretraining(
    setting: Setting,
    data: DataSet,
    name: str,
    flags: Mapping[str, Any],
    *,
    steps: int | Callable[[Results], int],
    seed: int = 0,
    program: Sequence[str] = ("pretrain",),
    cost: float = 1.0,
    images: float = 0.0,
    start: Run | None = None,
    stripped: bool = True,
    after: Sequence[Run] = (),
) -> Run:
    """A pretraining, whose weights are converted at the end.

    Args:
        setting: of the set.
        data: what it sees.
        name: of the run.
        flags: by their names, over those of the recipe, whose second term is left out.
        steps: how many, or what tells it from the results of other runs.
        seed: of the run.
        program: what trains: a program, and what stands before the recipe.
        cost: of an image, in those of atto at the ratio 0.6.
        images: how many it sees, for the estimate, where the results tell the steps.
        start: the pretraining whose encoder and decoder it begins with, which is not stripped.
        stripped: whether its checkpoints go at the end.
        after: the runs whose results tell the steps.
    """
    directory = setting.folder / name
    weights = directory / WEIGHTS

    def calls(results: Results) -> list[Call]:
        count = steps if isinstance(steps, int) else steps(results)
        own = {
            "data.train": data.train,
            **({} if start is None else going_on(start)),
            **data.one_term,
            **flags,
            "optim.steps": setting.steps(count),
            "seed": seed,
            "run": {
                "dir": directory,
                "save_every": "None",
                "save_minutes": 10,
                "keep": 1,
                "picture_every": 0,
            },
        }
        first, *before = program
        return [
            Call(program=first, words=(*before, data.recipe, *flags_of(own))),
            Call(program="convert", words=(str(directory), str(weights))),
        ]

    batch = flags.get("optim.batch_size", data.batch)
    seen = steps * batch if isinstance(steps, int) else images
    return Run(
        name=name,
        folder=setting.folder,
        calls=calls,
        makes=weights,
        keep=partial(kept_of, directory),
        estimate=20 + cost * seen / IMAGES_PER_S,
        stripped=stripped,
        needs=() if start is None else (start,),
        after=tuple(after),
    )


def going_on(start: Run) -> dict[str, Any]:
    """The flags of a run that begins with the encoder and the decoder of another one."""
    return {"init.weights": start.makes.parent, "init.decoder": True}


def kept_of(directory: Path) -> dict[str, Any]:
    """What is kept of a pretraining: its length, last loss and last figures without labels."""
    lines = read_metrics(directory)
    last = lines[-1]
    figures = ("rankme", "alpha_req", "collapse", "reconstruction", "contrast")
    found = {
        name: next((line[name] for line in reversed(lines) if line.get(name) is not None), None)
        for name in figures
    }
    losses = [line["loss"] for line in lines[-LAST:]]
    return {"steps": last["step"], "images": last["samples_seen"], "loss": mean(losses)} | {
        name: value for name, value in found.items() if value is not None
    }
