"""The confusion matrix as results hold it: what is not zero, by true class and by answer."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from fcmae.run.terminal import told_apart

Confusion = dict[str, dict[str, int]]


def confused(
    names: Sequence[str], truth: Int[Tensor, " n"], answers: Int[Tensor, " n"]
) -> Confusion:
    """How many samples of each class are answered as each class.

    Args:
        names: of the classes, in their order.
        truth: the class of each sample.
        answers: the class that each sample is answered as.

    Returns:
        The counts that are not zero, by true class and by answer. Every class has its row, in their
        order; names that look alike get numbers.
    """
    pairs, counts = torch.stack([truth, answers], dim=1).unique(dim=0, return_counts=True)
    return by_name(names, pairs, counts)


def counted(
    truth: Int[Tensor, " n"], answers: Int[Tensor, " n"], classes: int
) -> Int[Tensor, "k k"]:
    """The whole matrix, on the CPU, where counting is the same in every run.

    Args:
        truth: the class of each sample or pixel.
        answers: the class that each is answered as.
        classes: k, their number.
    """
    cells = truth * classes + answers
    return cells.cpu().bincount(minlength=classes**2).view(classes, classes)


def confused_pixels(names: Sequence[str], matrix: Int[Tensor, "k k"]) -> Confusion:
    """The counts of a whole matrix, true classes in its rows; see `confused`."""
    pairs = matrix.nonzero()
    return by_name(names, pairs, matrix[tuple(pairs.T)])


def by_name(
    names: Sequence[str], pairs: Int[Tensor, "m 2"], counts: Int[Tensor, " m"]
) -> Confusion:
    """Counts by the names of the true class and of the answer, whose numbers are the pairs."""
    told = told_apart(names)
    matrix: Confusion = {name: {} for name in told}
    for (row, column), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        matrix[told[row]][told[column]] = count
    return matrix
