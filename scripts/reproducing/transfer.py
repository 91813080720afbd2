"""One data set on a tenth of its labels: random, FCMAE, and networks of timm from scratch.

Every model is fine-tuned with `recipes/finetune/small.yaml`, over the same samples and seeds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from scripts.reproducing import tables
from scripts.reproducing.data_sets import ELPV, EMOJI, DataSet
from scripts.reproducing.pretraining import pretraining
from scripts.reproducing.results import Results
from scripts.reproducing.runs import Run
from scripts.reproducing.setting import Setting
from scripts.reproducing.uses import tuned_seconds, use

BASELINES = ("resnet18", "vit_tiny_patch16_224", "convnext_atto")
SEEDS = 3
FRACTION = 0.1  # of the training labels
LABELS = "10pc"  # in the names of what is measured


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """The set of one data set."""

    data: DataSet
    """What it is about."""
    image_size: int
    """Side in pixels of the images for the networks of timm."""
    pretraining: int
    """Steps of the pretraining."""
    steps: int
    """Steps of each fine-tuning, chosen on held-out training data."""
    metrics: tuple[str, ...]
    """Measures in the table; the first one selects."""

    def runs(self, setting: Setting) -> list[Run]:
        """The pretraining, and what is made of its weights and of each baseline."""
        data = setting.data[self.data.name]
        start = pretraining(setting, data, "pretrain", {}, steps=self.pretraining)
        each = tuned_seconds(data, self.steps)
        flags = {"fractions": FRACTION, "optim.steps": setting.steps(self.steps)}
        images = {"image_size": self.image_size, **data.pixels()}
        ours = use(
            setting, data, "fcmae", start, flags, draws=SEEDS, estimate=2 * SEEDS * (each + 20)
        )
        theirs = (
            use(
                setting,
                data,
                name,
                None,
                {"backbone": f"timm:{name}", "methods": "finetune", "random": images, **flags},
                draws=SEEDS,
                estimate=SEEDS * each,
            )
            for name in BASELINES
        )
        return [start, ours, *theirs]

    def table(self, results: Results) -> list[str]:
        """Models and methods, with their measures over seeds."""
        rows = list(self.rows(results))
        names = ["AUC" if m == "auc" else m.replace("_", " ") for m in self.metrics]
        text = f"{self.data.title}, {100 * FRACTION:g} % of the training labels, {self.steps} steps"
        made = tables.table(["model", "method", *names], rows)
        return tables.section(self.data.name, results, f"{text}, {SEEDS} seeds", [made])

    def rows(self, results: Results) -> Iterator[list[str]]:
        """The rows of what has all its seeds."""
        starts = {
            "convnextv2_atto, random": ("fcmae", "random"),
            "convnextv2_atto, FCMAE": ("fcmae", "pretrained"),
            **{f"timm's {name}, random": (name, f"timm_{name}") for name in BASELINES},
        }
        for title, (run, start) in starts.items():
            for method in ("probe", "finetune"):
                measured = results.kept(run).get(f"{LABELS} {start} {method}", {})
                if all(len(measured.get(name, ())) == SEEDS for name in self.metrics):
                    cells = [tables.cell(measured[name]) for name in self.metrics]
                    yield [title, method, *cells]


OF_EMOJI = Transfer(
    data=EMOJI,
    image_size=64,
    pretraining=4000,
    steps=600,
    metrics=("accuracy", "balanced_accuracy", "auc"),
)
OF_ELPV = Transfer(
    data=ELPV,
    image_size=128,
    pretraining=6175,  # 100 passes
    steps=200,
    metrics=("balanced_accuracy", "auc"),
)
