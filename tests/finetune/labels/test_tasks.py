"""Tasks: their targets, losses against timm's, class weights, and what they are measured by."""

import json
import math
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from timm.loss.cross_entropy import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch.nn import functional as F
from torchmetrics.functional import classification as M

from data.targets import ClassTarget, ClassText, LabelsTarget, ValueTarget
from finetune.labels.config import TaskConfig
from finetune.labels.metrics import draw_confusion, measure, names_of_measures
from finetune.labels.tasks import Loss, Task, class_weights, make_task, target_of
from finetune.training.curves import Curves
from tests.support.generators import generator

CPU = torch.device("cpu")
THREE = Task(kind="class", field="", names=("a", "b", "c"))
TAGS = Task(kind="labels", field="tags", names=("a", "b", "c"))
VALUE = Task(kind="value", field="size", names=("size",), mean=10.0, std=2.0)
LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 2])


def loss(task: Task = THREE, labels: torch.Tensor = LABELS, **options: Any) -> Loss:
    return Loss(task, TaskConfig(**options), labels, CPU)


def test_cross_entropy_is_timms_smoothed_and_mixed() -> None:
    outputs, target = torch.randn(7, 3), LABELS
    torch.testing.assert_close(
        loss(smoothing=0.2)(outputs, target), LabelSmoothingCrossEntropy(0.2)(outputs, target)
    )
    mixed = torch.rand(7, 3).softmax(1)
    torch.testing.assert_close(
        loss(smoothing=0.2)(outputs, mixed), SoftTargetCrossEntropy()(outputs, mixed)
    )


def test_balanced_classes_weigh_the_same_in_all() -> None:
    weights = class_weights(THREE, LABELS, 1.0)
    per_class = weights * LABELS.bincount()
    torch.testing.assert_close(per_class, per_class[:1].expand(3))
    torch.testing.assert_close(weights[LABELS].mean(), torch.tensor(1.0))
    torch.testing.assert_close(class_weights(THREE, LABELS, 0.0), torch.ones(3))
    outputs = torch.randn(7, 3)
    expected = F.cross_entropy(outputs, LABELS, weights)
    torch.testing.assert_close(loss(balance=1.0, smoothing=0.0)(outputs, LABELS), expected)


def test_balanced_labels_weigh_presence_by_the_odds_of_absence() -> None:
    present = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0]])
    torch.testing.assert_close(class_weights(TAGS, present, 1.0), torch.tensor([1 / 3, 3, 3]))


def test_values_are_learned_standardised_and_answered_as_they_are() -> None:
    outputs, target = torch.tensor([[0.0], [1.0]]), torch.tensor([[10.0], [12.0]])
    assert loss(VALUE)(outputs, target).item() == 0
    torch.testing.assert_close(VALUE.answers(outputs), target)


def test_binary_cross_entropy_takes_classes_as_numbers_or_rows() -> None:
    outputs = torch.randn(7, 3)
    bce = loss(loss="bce", smoothing=0.0)
    rows = F.one_hot(LABELS, 3).float()
    torch.testing.assert_close(bce(outputs, LABELS), bce(outputs, rows))


def test_targets_are_read_from_their_members() -> None:
    members = {"cls": b"2", "json": b'{"tags": [0, 2], "size": 3}'}
    assert ClassTarget()(members) == 2
    assert LabelsTarget("tags", 3)(members).tolist() == [1, 0, 1]
    assert ValueTarget("size")(members).tolist() == [3]
    assert ClassTarget()({}) == -1
    assert LabelsTarget("tags", 3)({}).isnan().all()
    assert ValueTarget("other")(members).isnan().all()
    assert ClassTarget("size")(members) == 3
    assert ClassTarget("other")(members) == -1
    assert [ClassText()(m) for m in ({}, {"cls": b"-1"}, {"cls": b"cat\n"})] == ["", "", "cat"]
    with pytest.raises(ValueError, match=r"cls is 'cat', not a class number"):
        ClassTarget()({"cls": b"cat"})
    with pytest.raises(ValueError, match=r"'tags' is \[0, 2\], not a list of classes 0 to 1"):
        LabelsTarget("tags", 2)(members)
    with pytest.raises(ValueError, match=r"'tags' is \[0, 2\], not a number"):
        ValueTarget("tags")(members)


@pytest.mark.parametrize(("value", "number"), [("41", 41), (" -1.5 ", -1.5), (True, 1), (2, 2)])
def test_text_of_a_number_is_one(value: object, number: float) -> None:
    assert ValueTarget("age")({"json": json.dumps({"age": value})}).tolist() == [number]


@pytest.mark.parametrize("value", ["", "old", "nan", math.nan, math.inf, [1], {"age": 1}])
def test_other_values_are_none_and_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"json field 'age' is .*, not a number"):
        ValueTarget("age")({"json": json.dumps({"age": value})})


@pytest.mark.parametrize("one", [True, 1, 1.0, "1", "1.0"])
def test_zeros_and_ones_of_any_kind_are_classes_and_rows(one: Any) -> None:
    zero = type(one)(0)
    assert ClassTarget("sick")({"json": json.dumps({"sick": one})}) == 1
    assert ClassTarget("sick")({"json": json.dumps({"sick": zero})}) == 0
    row = LabelsTarget("tags", 3, rows=True)
    for listed in ([zero, one, one], json.dumps([zero, one, one])):  # the latter as a CSV has it
        assert row({"json": json.dumps({"tags": listed})}).tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match=r"not a row of 3 zeros and ones, as the others are"):
        row({"json": json.dumps({"tags": [zero, one]})})
    assert LabelsTarget("tags", 3)({"json": '{"tags": [2, 2]}'}).tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match=r"seems to be a row of zeros and ones, while others are"):
        LabelsTarget("tags", 3)({"json": json.dumps({"tags": [one, one, zero]})})


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (
            [0, 0],
            {},
            r"all training samples of train\.tar are of class 0: there is nothing to tell",
        ),
        ([0, 2, 2], {}, "no training sample is of class 1: add some, or take the class out"),
        ([0, 1, 3], {"classes": 3}, r"labels up to 3, but there are 3 classes: correct --task"),
        ([0, 1, 1], {"classes": 3}, "no training sample is of class 2"),
    ],
)
def test_labels_have_to_fit_their_classes(labels: list, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(TaskConfig(**options), [], torch.tensor(labels), "train.tar")


def test_a_task_takes_the_names_beside_the_shards_and_survives_json() -> None:
    task = make_task(TaskConfig(), ["a", "b", "c"], LABELS, "train.tar")
    assert task == THREE
    assert Task.of_json(json.dumps(asdict(task))) == task
    values = torch.tensor([[8.0], [10.0], [12.0]])
    task = make_task(TaskConfig(kind="value", field="size"), [], values, "train.tar")
    assert (task.mean, task.std) == (10, 2)


def test_options_that_do_not_fit_the_task_are_refused() -> None:
    with pytest.raises(ValueError, match=r"task\.balance=1\.0 is for classes, not for values"):
        loss(VALUE, balance=1.0)
    with pytest.raises(ValueError, match=r"task\.loss=bce is for task\.kind=class, not labels"):
        loss(TAGS, torch.zeros(2, 3), loss="bce")
    with pytest.raises(ValueError, match=r"task\.kind=value is in a field of \.json: name it"):
        target_of("value", "", None)
    with pytest.raises(ValueError, match=r"task\.kind=labels needs --task\.classes"):
        target_of("labels", "tags", 0)
    with pytest.raises(ValueError, match=r"for several labels: of one .* --task.kind class --task"):
        target_of("labels", "tags", 1)
    with pytest.raises(ValueError, match=r"all values of 'size' in t\.tar are 3\.0"):
        make_task(TaskConfig(kind="value", field="size"), [], torch.full((4, 1), 3.0), "t.tar")


def test_measures_of_classes_are_their_definitions() -> None:
    p = torch.tensor([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]])
    found = measure(THREE, p, torch.tensor([0, 1, 1, 2]))
    assert found["accuracy"] == pytest.approx(3 / 4)
    assert found["balanced_accuracy"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert found["auc"] == pytest.approx(1.0)
    # each alone in its bin, but the two of 0.7
    assert found["calibration_error"] == pytest.approx((0.2 + 0.6 + 2 * 0.3) / 4, abs=1e-6)
    assert found["per_class"]["b"] == {
        "precision": pytest.approx(1.0),
        "recall": pytest.approx(0.5),
        "f1": pytest.approx(2 / 3),
        "samples": 2,
    }
    assert "top5_accuracy" not in found
    assert found["confusion"] == [{"a": {"a": 1}, "b": {"a": 1, "b": 1}, "c": {"c": 1}}]


def test_measures_of_two_classes_have_the_auc_of_the_second() -> None:
    p = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]])
    two = Task(kind="class", field="", names=("good", "bad"))
    assert measure(two, p, torch.tensor([0, 0, 1, 1]))["auc"] == pytest.approx(3 / 4)


def test_measures_of_labels_and_values() -> None:
    p = torch.tensor([[0.9, 0.2, 0.8], [0.1, 0.7, 0.6]])
    found = measure(TAGS, p, torch.tensor([[1.0, 0, 1], [0, 1, 0]]))
    assert found["exact_match"] == pytest.approx(1 / 2)
    assert found["map"] == pytest.approx(1.0)
    found = measure(VALUE, torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[1.0], [3.0], [5.0]]))
    assert found["mae"] == pytest.approx(2 / 3)
    assert found["rmse"] == pytest.approx((2 / 3) ** 0.5)
    assert found["spearman"] == pytest.approx(1.0, abs=1e-5)


def test_an_auc_of_one_class_alone_is_not_defined() -> None:
    two = Task(kind="class", field="", names=("good", "bad"))
    p = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    for only in (0, 1):
        found = measure(two, p, torch.full((3,), only))
        assert found["auc"] is None
        assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert measure(THREE, torch.eye(3), torch.ones(3).long())["auc"] is None


def test_labels_that_no_sample_or_each_has_do_not_count_in_the_means() -> None:
    p = torch.tensor([[0.9, 0.2, 0.8], [0.1, 0.7, 0.6], [0.4, 0.3, 0.7]])
    y = torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 0, 1]])
    found = measure(TAGS, p, y)
    assert found["auc"] == pytest.approx(1.0)  # of the first label alone
    assert found["map"] == pytest.approx(1.0)
    kept = {name: row["average_precision"] for name, row in found["per_class"].items()}
    assert list(kept.values()) == [pytest.approx(1.0), None, pytest.approx(1.0)]
    nothing = measure(TAGS, p, torch.zeros(3, 3))
    assert (nothing["auc"], nothing["map"]) == (None, None)


def test_the_measures_of_labels_are_those_of_torchmetrics_where_all_are_defined() -> None:
    g = generator()
    p, y = torch.rand(50, 3, generator=g), torch.rand(50, 3, generator=g).round().long()
    found = measure(TAGS, p, y)
    assert found["auc"] == M.multilabel_auroc(p, y, 3).item()
    assert found["map"] == M.multilabel_average_precision(p, y, 3).item()


def test_correlations_with_values_that_are_all_equal_are_not_defined() -> None:
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [3.0]])
    found = measure(VALUE, x, y)
    assert (found["r2"], found["spearman"], found["mae"]) == (None, None, 1.5)
    assert measure(VALUE, y, x)["spearman"] is None
    assert measure(VALUE, x[:1], y[:1])["r2"] is None


def test_a_metric_that_is_not_defined_stops_the_curves() -> None:
    curves = Curves("auc")
    with pytest.raises(ValueError, match="metric=auc is not defined for these data: take accuracy"):
        curves.add("1%", "random probe", 3, {"auc": None, "accuracy": 1.0})


def test_what_is_not_defined_is_none_and_costs_nothing_else() -> None:
    found = measure(VALUE, torch.tensor([[1.0]]), torch.tensor([[3.0]]))
    assert (found["mae"], found["r2"]) == (2.0, None)
    found = measure(TAGS, torch.rand(4, 3), torch.tensor([[1.0, 1, 0]] * 4))
    precisions = [row["average_precision"] for row in found["per_class"].values()]
    assert precisions == [pytest.approx(1.0), pytest.approx(1.0), None]
    assert found["auc"] is None  # no label has both sides
    two = Task(kind="class", field="", names=("good", "bad"))
    assert measure(two, torch.eye(2), torch.tensor([0, 0]))["auc"] is None


def test_the_names_of_measures_are_those_of_a_result() -> None:
    found = measure(THREE, torch.rand(7, 3).softmax(1), LABELS)
    tables = ("per_class", "confusion")
    assert names_of_measures(THREE) == [name for name in found if name not in tables]


def test_the_confusion_matrix_is_a_picture(tmp_path: Path) -> None:
    names = ("a", "[/red]", "$\\frac$" * 20)  # no markup, no formula, and not too long
    draw_confusion(tmp_path / "confusion.png", names, torch.eye(3), torch.arange(3))
    with Image.open(tmp_path / "confusion.png") as picture:
        assert min(picture.size) > 300


@pytest.mark.slow
def test_of_many_classes_those_that_are_confused_most_are_drawn(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(1000)]
    p = torch.eye(1000).roll(1, 1)  # each is taken for the next
    draw_confusion(tmp_path / "confusion.png", names, p, torch.arange(1000))
    with Image.open(tmp_path / "confusion.png") as picture:
        assert max(picture.size) < 3000


@contextmanager
def little_memory() -> Iterator[None]:
    """Let this process take 2 GB more than it has."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2 * 10**9, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no other system limits memory alike")
def test_a_thousand_classes_are_measured_in_little_memory_as_programs_run(tmp_path: Path) -> None:
    names, labels = tuple(map(str, range(1000))), torch.arange(1000).repeat(2)
    answers = torch.eye(1000).roll(1, 1).repeat(2, 1)
    torch.use_deterministic_algorithms(True)  # torchmetrics would count n k^2 comparisons
    with little_memory():
        found = measure(Task(kind="class", field="", names=names), answers, labels)
        draw_confusion(tmp_path / "confusion.png", names, answers, labels)
    assert torch.are_deterministic_algorithms_enabled()
    assert found["accuracy"] == found["balanced_accuracy"] == found["macro_f1"] == 0
    assert found["confusion"][0]["999"] == {"0": 2}
