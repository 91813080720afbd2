"""The batches that a run has still to take."""

from collections.abc import Callable

from data.dataset import ShardImages
from data.order import GlobalBatches, Order
from fcmae.run.learner import Learner
from fcmae.run.processes import Processes
from finetune.labels.labelled import Chosen


def batches_left(
    order: Order, learner: Learner, processes: Processes, end: int | None = None
) -> GlobalBatches:
    """The share of this process in the batches from the learner's step on.

    Args:
        order: of the samples.
        learner: which knows how far the run is, and how large its batches are.
        processes: that share the batches.
        end: the step to stop at; None for the learner's last.
    """
    last = learner.total if end is None else end
    return GlobalBatches(
        order,
        batch_size=learner.config.batch_size,
        start=learner.state.samples_seen,
        steps=last - learner.state.step,
        rank=processes.rank,
        world=processes.world,
        micro_batches=learner.config.accumulate,
    )


def names_of_step(
    images: ShardImages | Chosen, batches: GlobalBatches
) -> Callable[[int, int], list[str]]:
    """A function that names the samples of a step, counted from 0, on a rank."""

    def names(step: int, rank: int) -> list[str]:
        return [images.name(sample) for _, sample in batches.of_step(step, rank)]

    return names
