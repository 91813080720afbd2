"""Uses of weights as runs of a set: frozen or fine-tuned on few labels, over draws of these."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fcmae.run.config import flags_of
from fcmae.run.json_files import read_json
from scripts.reproducing.data_sets import DataSet
from scripts.reproducing.runs import Call, Run
from scripts.reproducing.setting import Setting

FEW_SHOT = ("few-shot",)
RECIPE = "scripts/recipes/finetune/small.yaml"
FROZEN_PER_S = 300.0  # whole images on two cores, atto at 32 px
TUNED_PER_S = 50.0
FROZEN_DRAWS = 5  # of the labels
RANDOM = "random"  # the start without pretraining
BATCH = 16  # of the recipe
STEPS = 300  # of a fine-tuning on tens to hundreds of labels
CELL = re.compile(r"(?P<size>.+)-seed(?P<seed>\d+)-(?P<start>.+)-(?P<method>probe|finetune)\.json")


def frozen(
    setting: Setting,
    data: DataSet,
    name: str,
    start: Run,
    flags: Mapping[str, Any],
    *,
    draws: int = FROZEN_DRAWS,
) -> Run:
    """A classifier of frozen features, see `use`."""
    estimate = 15 + (data.images + data.unseen) / FROZEN_PER_S
    changes = {"methods": "probe", "starts": "pretrained", **flags}
    return use(setting, data, name, start, changes, draws=draws, estimate=estimate)


def tuned(
    setting: Setting,
    data: DataSet,
    name: str,
    start: Run,
    flags: Mapping[str, Any],
    *,
    sizes: int,
    draws: int = 3,
    steps: int = STEPS,
    program: Sequence[str] = FEW_SHOT,
) -> Run:
    """A fine-tuning, see `use`.

    Args:
        sizes: how many numbers of labels there are, for the estimate.
        steps: of each fine-tuning.
    """
    changes = {
        "methods": "finetune",
        "starts": "pretrained",
        "optim.steps": setting.steps(steps),
        **flags,
    }
    starts = 1 if isinstance(changes["starts"], str) else len(changes["starts"])
    estimate = 15 + sizes * draws * starts * tuned_seconds(data, steps)
    return use(
        setting,
        data,
        name,
        start,
        changes,
        draws=draws,
        estimate=estimate,
        program=program,
    )


def tuned_seconds(data: DataSet, steps: int) -> float:
    """Seconds of a fine-tuning and its test, on two cores."""
    return steps * BATCH / TUNED_PER_S + data.unseen / FROZEN_PER_S


def use(
    setting: Setting,
    data: DataSet,
    name: str,
    start: Run | None,
    flags: Mapping[str, Any],
    *,
    draws: int,
    estimate: float,
    program: Sequence[str] = FEW_SHOT,
) -> Run:
    """Learning from few labels by `finetune.few_shot`.

    Args:
        setting: of the set.
        data: what is learned.
        name: of the run.
        start: the pretraining whose weights are used; None where the flags say what is.
        flags: by their names, over those of the recipe.
        draws: of the labels, the same for all runs.
        estimate: seconds on two cores.
        program: what learns: a program, and what stands before the recipe.
    """
    out = setting.folder / f"{name}.json"
    own = {
        **({} if start is None else {"weights": start.makes}),
        **data.labels(),
        "metric": data.metric,
        "seeds": setting.seeds(draws),
        "run": {"save_every": "None", "save_minutes": 10, "keep": 1},
        **flags,
        "out": out,
    }
    first, *before = program
    call = Call(program=first, words=(*before, RECIPE, *flags_of(own)))
    return Run(
        name=name,
        folder=setting.folder,
        calls=lambda _: [call],
        makes=out,
        keep=partial(measured_in, out.with_suffix("")),
        estimate=estimate,
        needs=() if start is None else (start,),
    )


def plain_features(setting: Setting, data: DataSet, name: str, per_class: Sequence[int]) -> Run:
    """Learning from pixels and from HOG, without an encoder, by `scripts/baselines.py`.

    There are as many draws of the labels as of `frozen`, the same ones.

    Args:
        setting: of the set.
        data: what is learned.
        name: of the run.
        per_class: numbers of labels of each class.
    """
    out = setting.folder / f"{name}.json"
    flags = {
        "train": data.train,
        "test": data.test,
        "out": out,
        "per_class": setting.per_class(*per_class)["per_class"],
        "seeds": setting.seeds(FROZEN_DRAWS),
    }
    return Run(
        name=name,
        folder=setting.folder,
        calls=lambda _: [Call(program="baselines", words=tuple(flags_of(flags)))],
        makes=out,
        keep=partial(learned_in, out.with_stem(f"{out.stem}-few_labels")),
        estimate=60 + (data.images + data.unseen) / FROZEN_PER_S,
    )


def learned_in(file: Path) -> dict[str, Any]:
    """The accuracies of a result of baselines; a key is such as `10_per_class HOG, ridge`.

    Raises:
        OSError, ValueError: the file cannot be read.
    """
    return {
        f"{label.replace(' ', '_')} {column}": {"accuracy": spread["values"]}
        for label, row in read_json(file, dict)["results"].items()
        for column, spread in row.items()
    }


def measured_in(folder: Path) -> dict[str, Any]:
    """The measures of all cells of a folder: by labels, start and method, then one value a draw.

    A key is such as `10_per_class pretrained finetune`.

    Raises:
        ValueError: a file is damaged.
    """
    found = defaultdict[str, dict[str, list[float]]](lambda: defaultdict(list))
    cells = [(match, path) for path in folder.glob("*.json") if (match := CELL.match(path.name))]
    for match, path in sorted(cells, key=lambda cell: int(cell[0]["seed"])):
        values = read_json(path, dict)["measured"]
        key = f"{match['size']} {match['start']} {match['method']}"
        for name, value in values.items():
            if isinstance(value, float):
                found[key][name].append(value)
    return {key: dict(values) for key, values in sorted(found.items())}
