"""The confusion matrix of a result: what is not zero, by names that are all different."""

import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from finetune.labels.confusion import confused, confused_pixels, counted
from tests.support.generators import generator

TRUTH = torch.tensor([0, 0, 2, 2, 2])
ANSWERS = torch.tensor([0, 1, 2, 2, 0])


def test_counts_are_by_true_class_and_answer_and_every_class_has_a_row() -> None:
    found = confused(("sun", "moon", "star"), TRUTH, ANSWERS)
    assert found == {"sun": {"sun": 1, "moon": 1}, "moon": {}, "star": {"sun": 1, "star": 2}}
    assert list(found) == ["sun", "moon", "star"]


def test_a_whole_matrix_has_the_same_counts() -> None:
    matrix = torch.zeros(3, 3, dtype=torch.long)
    matrix.index_put_((TRUTH, ANSWERS), torch.tensor(1), accumulate=True)
    names = ("sun", "moon", "star")
    assert confused_pixels(names, matrix) == confused(names, TRUTH, ANSWERS)


def test_the_whole_matrix_is_that_of_torchmetrics() -> None:
    truth, answers = torch.randint(5, (2, 99), generator=generator())
    assert counted(truth, answers, 5).equal(multiclass_confusion_matrix(answers, truth, 5))


def test_names_that_look_alike_are_told_apart() -> None:
    found = confused(("cat", "dog", "cat"), TRUTH, ANSWERS)
    assert found == {
        "cat (0)": {"cat (0)": 1, "dog": 1},
        "dog": {},
        "cat (2)": {"cat (0)": 1, "cat (2)": 2},
    }
