"""The rules about features: whether they have become alike, or lie in few dimensions."""

from finetune.reporting.finding import Finding, Rule, values
from finetune.reporting.record import RunRecord

ALIKE = 0.1  # distance between channels, which is 1/2 where they are unrelated
RANK = 0.5  # of the greatest effective rank before
UNIFORM = -0.1  # of views that all point one way it is 0, and evenly spread ones have nearly -4


def features_collapse(run: RunRecord) -> Finding | None:
    """Find blocks whose channels have become alike."""
    measured = [line["collapse"] for line in run.metrics if is_list(line.get("collapse"))]
    alike = [] if not measured else [i for i, d in enumerate(measured[-1]) if d < ALIKE]
    if not alike:
        return None
    blocks = ", ".join(str(i + 1) for i in alike)
    return Finding(
        severity="warning",
        sentence=f"Features collapse: the channels of block {blocks} are alike, with a mean"
        f" distance down to {min(measured[-1]):.3f}.",
        help="A V2 model, whose GRN keeps channels apart (model.name convnextv2_...), or a lower"
        " optim.base_lr.",
    )


def rank_falls(run: RunRecord) -> Finding | None:
    """Find features that have come to lie in few dimensions."""
    ranks = values(run, "rankme")
    if len(ranks) < 2 or ranks[-1] >= RANK * max(ranks):
        return None
    return Finding(
        severity="warning",
        sentence=f"The effective rank of the features fell from {max(ranks):.1f} to"
        f" {ranks[-1]:.1f}.",
        help="An earlier checkpoint may have better features: compare them by k-NN"
        " (watch.knn_train); a lower optim.base_lr.",
    )


def samples_alike(run: RunRecord) -> Finding | None:
    """Find views of different samples that a contrastive term does not tell apart any more."""
    uniformity = values(run, "uniformity")
    if not uniformity or uniformity[-1] <= UNIFORM:
        return None
    return Finding(
        severity="warning",
        sentence="The contrastive term does not tell samples apart: the uniformity of their views"
        f" is {uniformity[-1]:.2g} at last.",
        help="A lower optim.base_lr, more samples in a micro-batch (optim.batch_size), or another"
        " model.contrast.temperature.",
    )


def is_list(value: object) -> bool:
    """Whether a value is a list of numbers, and not an empty one."""
    return (
        isinstance(value, list) and bool(value) and all(isinstance(v, int | float) for v in value)
    )


FEATURE_RULES = (
    Rule(
        name="features collapse",
        text=f"The feature distance of a block is below {ALIKE}, where unrelated channels have 0.5"
        " (ConvNeXt V2, figure 3).",
        look=features_collapse,
    ),
    Rule(
        name="rank falls",
        text=f"The last effective rank (RankMe) is below {RANK:g} of the greatest one.",
        look=rank_falls,
    ),
    Rule(
        name="samples alike",
        text=f"The last uniformity of a contrastive term is above {UNIFORM:g}, where samples that"
        " are all alike have 0 (Wang and Isola 2020).",
        look=samples_alike,
    ),
)
