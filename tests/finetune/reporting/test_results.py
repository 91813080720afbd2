"""The results of a report: what the programs have written, with its spread, and what is damaged."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from finetune.reporting import by_class, results
from finetune.reporting.entries import found_beside
from finetune.reporting.page import page
from finetune.reporting.record import read_runs
from finetune.reporting.section import Section
from tests.finetune.reporting.conftest import CLASSES
from tests.support.browser import Pages, faults, overflow

SHOWN = ("red", "<b>green</b>", "=blue'\"\\u202e")  # CLASSES, as a page shows them
PROBE = {"weights": "w.safetensors", "step": 3, "chosen": [{"k": 1}], "train_samples": 4}
PROBE |= {"test_samples": 2, "test_accuracy": {"mean": 0.5, "std": 0.1, "values": [0.4, 0.6]}}


def section_of(*runs: Path) -> Section:
    made = results.section(read_runs(runs))
    assert made is not None
    return made


def run_with(folder: Path, **files: object) -> Path:
    """A run beside which these results lie, by name; a text is written as it is."""
    run = folder / "run"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0\n")
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (run / f"{name}.json").write_text(text)
    return run


def read(run: Path, name: str) -> dict[str, Any]:
    return json.loads((run / f"{name}.json").read_text())


def score(section: Section, result: str, measure: str = "accuracy") -> Mapping[str, Any]:
    rows = section.data["scores"]
    (row,) = [row for row in rows if (row["result"], row["measure"]) == (result, measure)]
    return row


@pytest.mark.slow
def test_the_results_of_all_programs_are_there_with_their_numbers(made: Path) -> None:
    section = section_of(made)
    for name in ("linear", "knn"):
        written = read(made, name)["test_accuracy"]
        found = score(section, name)
        assert list(found["values"]) == written["values"]
        assert (found["mean"], found["std"]) == pytest.approx((written["mean"], written["std"]))
        assert f"{written['mean']:.4f}\u00a0±\u00a0{written['std']:.4f}" in section.body
        assert " ".join(f"{value:.4f}" for value in written["values"]) in section.body
    assert score(section, "segmented", "miou")["mean"] == read(made, "segmented")["miou"]
    assert score(section, "tags", "map")["mean"] == read(made, "tags")["map"]
    assert score(section, "size", "mae")["std"] is None  # one seed has no spread
    baselines = {
        row["label"]: row["mean"] for row in section.data["scores"] if row["result"] == "baselines"
    }
    written = read(made, "baselines")
    assert baselines == {
        "baselines: raw pixels": written["raw_pixels"],
        "baselines: HOG": written["hog"],
        "baselines: commonest class": written["majority"],
    }


@pytest.mark.slow
def test_runs_that_differ_in_their_seed_alone_are_one_row(made: Path) -> None:
    values = [read(made, f"tuned-{seed}")["accuracy"] for seed in (0, 1)]
    found = score(section_of(made), "tuned-0, tuned-1")
    assert (list(found["values"]), found["seeds"]) == (values, 2)
    assert (found["mean"], found["std"]) == pytest.approx((mean(values), stdev(values)))


@pytest.mark.slow
def test_learning_curves_have_each_value_by_the_number_of_labels(made: Path) -> None:
    section = section_of(made)
    written = read(made, "few")
    rows = section.data["labels"]
    assert len(rows) == 4
    for row in rows:
        spread = written["results"][row["label"]][row["curve"]]
        assert list(row["values"]) == spread["values"]
        assert row["labels"] == written["samples"][row["label"]]
        assert row["high"] - row["low"] == pytest.approx(2 * spread["std"])
    assert "Few labels: accuracy of few" in section.body


@pytest.mark.slow
def test_each_class_and_the_confusion_matrix_are_those_of_the_file(made: Path) -> None:
    section = section_of(made)
    matrices = read(made, "knn")["confusion"]
    total = [[sum(m[t].get(a, 0) for m in matrices) for a in CLASSES] for t in CLASSES]
    cells = [row for row in section.data["cells"] if row["result"] == "knn: k-NN"]
    assert [row["truth"] for row in cells] == list(SHOWN)
    for row, expected in zip(cells, total, strict=True):
        counts = dict(zip(row["answers"], row["counts"], strict=True))
        assert [counts.get(i, 0) for i in range(3)] == expected
        assert row["samples"] == sum(expected)
    bars = {r["class"]: r for r in section.data["classes"] if r["result"] == "knn: k-NN"}
    for i, (own, shown) in enumerate(zip(CLASSES, SHOWN, strict=True)):
        recalls = [m[own].get(own, 0) / sum(m[own].values()) for m in matrices]
        assert bars[shown]["value"] == pytest.approx(mean(recalls))
        assert bars[shown]["samples"] == total[i][0] // 3 + total[i][1] // 3 + total[i][2] // 3
    pairs = [row for row in section.data["pairs"] if row["result"] == "knn: k-NN"]
    wrong = sorted((total[t][a] for t in range(3) for a in range(3) if t != a), reverse=True)
    assert [pair["count"] for pair in pairs] == [count for count in wrong if count]
    ious = {r["class"]: r["value"] for r in section.data["classes"] if "segm" in r["result"]}
    rows = read(made, "segmented")["per_class"]
    assert ious == {shown: rows[own]["iou"] for own, shown in zip(CLASSES, SHOWN, strict=True)}


@pytest.mark.slow
def test_names_of_classes_are_no_markup_and_drive_no_text(made: Path) -> None:
    html = page(read_runs([made]))
    assert "<b>green" not in html
    assert "\u202e" not in html


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"test_accuracy": {"values": [0.5', "The result odd cannot be read"),
        ({"test_accuracy": "high", "weights": "w"}, "the result odd is damaged: it has"),
        ({"test_accuracy": {"values": 3}}, "its values over seeds are no list"),
        (PROBE | {"confusion": [{"a": {"b": 1}}]}, "answers that are no classes"),
        (PROBE | {"confusion": [{"a": {"a": -1}}]}, "or no counts"),
        (PROBE | {"confusion": 3}, "its field &#39;confusion&#39; is 3"),
        (PROBE | {"confusion": [{"a": {}}, {"b": {}}]}, "are of different classes"),
        (PROBE | {"per_class": [1]}, "it is no object of JSON"),
        (PROBE | {"train_samples": "all"}, "its field &#39;train_samples&#39; is"),
        ({"results": {"1%": {"x": 1}}, "metric": "m", "samples": {}}, "&#39;1%&#39; is missing"),
        ({"results": 3, "metric": "m", "samples": {}}, "it is no object of JSON"),
        ({"raw_pixels": [], "hog": 1}, "it has &#39;[]&#39; in place of a number"),
        (
            {"weights": "w", "miou": 0.5, "per_class": {"a": {"iou": 1}}},
            "&#39;samples&#39; is missing",
        ),
        ({"<b>colour": 3}, "no result of a program is in odd"),
    ],
)
def test_a_file_that_is_no_whole_result_is_a_sentence(
    content: object, message: str, tmp_path: Path
) -> None:
    run = run_with(tmp_path, fine=PROBE, odd=content)
    html = page(read_runs([run]))
    if "cannot be read" in message:
        assert any("odd.json cannot be read" in text for text in read_runs([run])[0].problems)
    else:
        assert message in html
    assert [row["result"] for row in section_of(run).data["scores"]] == ["fine"]


def test_values_that_are_not_defined_or_not_told_are_words(tmp_path: Path) -> None:
    lacking = PROBE | {"test_accuracy": {"mean": 0.5}}
    undefined = PROBE | {"test_accuracy": {"values": [0.5, float("nan")]}}
    single = PROBE | {"test_accuracy": {"mean": 0.25, "std": 0.0, "values": [0.25]}}
    tuned = {"weights": "none", "model": "m", "accuracy": None, "auc": float("inf")}
    run = run_with(tmp_path, lacking=lacking, undefined=undefined, single=single, tuned=tuned)
    section = section_of(run)
    assert score(section, "lacking")["mean"] == 0.5
    assert "not told" in section.body
    assert score(section, "undefined")["values"] == (0.5, None)
    assert "<td>0.5000 not defined</td>" in section.body
    assert score(section, "single")["std"] is None
    assert score(section, "tuned", "auc")["mean"] is None
    json.dumps(section.data, allow_nan=False)


def test_what_lies_beside_two_runs_is_shown_once_and_the_run_is_named(tmp_path: Path) -> None:
    runs = [run_with(tmp_path / name, knn=PROBE) for name in ("a", "b")]
    section = section_of(*runs)
    assert [row["label"] for row in section.data["scores"]] == [
        "knn: k-NN (a/run)",
        "knn: k-NN (b/run)",
    ]
    linked = tmp_path / "b" / "run" / "again.json"
    linked.symlink_to(runs[0] / "knn.json")
    assert len(section_of(*runs).data["scores"]) == 2


def test_the_best_of_weights_is_compared_with_the_best_without(tmp_path: Path) -> None:
    plain = {"raw_pixels": 0.25, "hog": 0.375, "test_images": 2}
    body = section_of(run_with(tmp_path, knn=PROBE, plain=plain)).body
    assert "0.5000 (knn, k-NN), 0.1250 above the best without them (plain, baseline: HOG" in body
    other = plain | {"test_images": 3}  # of another test
    assert "above" not in section_of(run_with(tmp_path / "b", knn=PROBE, plain=other)).body


def square(classes: int) -> dict[str, dict[str, int]]:
    """A matrix in which each class is answered as each other once, and as itself often."""
    names = [f"class {i}" for i in range(classes)]
    return {t: {a: 50 if a == t else 1 for a in names} for t in names}


def test_many_classes_are_drawn_in_part_and_a_sentence_says_so(tmp_path: Path) -> None:
    thousands = {f"class {i}": {f"class {(i + 1) % 3000}": 1} for i in range(3000)}
    run = run_with(
        tmp_path,
        dense=PROBE | {"confusion": [square(200)]},
        many=PROBE | {"confusion": [thousands]},
    )
    section = section_of(run)
    dense, many = section.data["menu"]
    assert (dense["classes"], many["classes"]) == (200, 0)
    assert "The matrix shows the 5,000 largest of its 40,000 counts." in dense["notes"]
    assert any("The matrix of 3,000 classes is not drawn" in note for note in many["notes"])
    cells = section.data["cells"]
    assert len(cells) == 200
    assert sum(len(row["counts"]) for row in cells) == by_class.MOST_CELLS
    assert all(row["counts"][row["answers"].index(row["place"])] == 50 for row in cells)
    assert len(section.data["classes"]) == 2 * by_class.MOST_BARS
    assert sum(row["result"] == "many: k-NN" for row in section.data["pairs"]) == 12


def test_a_run_without_results_has_no_section(tmp_path: Path) -> None:
    assert results.section(read_runs([run_with(tmp_path)])) is None
    assert found_beside(read_runs([run_with(tmp_path / "b")])).problems == []


@pytest.mark.slow
def test_it_shows_in_a_browser_and_the_menu_changes_it(
    made: Path, pages: Pages, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(read_runs([made])), encoding="utf-8")
    opened = pages.open(file.as_uri(), width=400, dark=True)
    opened.wait_for_selector("html[data-drawn]")
    for chart in ("scores-accuracy", "labels-0", "class-bars", "confusion", "confused-pairs"):
        assert opened.locator(f"#{chart} svg [role='graphics-symbol']").count() > 0, chart
    assert overflow(opened) == 0
    assert faults(opened) == []
    before = opened.locator("#confusion").inner_html()
    opened.select_option("#results-menu", label="segmented: segmentation")
    opened.wait_for_function(
        "before => document.querySelector('#confusion').innerHTML !== before", arg=before
    )
    opened.wait_for_selector("#class-bars svg :text('intersection over union')")
    opened.select_option("#results-menu", label="tags: fine-tuning")
    opened.locator("#confusion").wait_for(state="hidden")
    assert "no confusion matrix" in opened.locator("#results-notes").inner_text()
