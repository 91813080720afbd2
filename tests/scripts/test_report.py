"""The command that makes a report: what it writes, says and refuses."""

import json
from pathlib import Path

import pytest

from finetune.training.curves import Curves
from scripts.report import main

PROBE = json.dumps({"weights": "w", "test_accuracy": {"mean": 0.5, "std": 0.01}})
BASELINES = json.dumps({"raw_pixels": 0.1, "hog": 0.2, "majority": 0.3})
LINE = {"step": 1, "samples_seen": 8, "loss": 0.9, "lr": 1e-3, "grad_norm": 0.1}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What the quickstart leaves, as far as its end needs it."""
    for start in ("random", "pretrained"):
        for probe in ("linear_probe", "knn"):
            (tmp_path / f"{start}-{probe}.json").write_text(PROBE)
    (tmp_path / "baselines.json").write_text(BASELINES)
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(LINE)}\n")
    return tmp_path


def test_it_ends_with_one_table_and_one_sentence(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(run)])
    told = capsys.readouterr().out
    assert told.count("0.500 ± 0.010") == 4
    assert all(number in told for number in ("0.100", "0.200", "0.300"))
    sentence = told.splitlines()[-1]
    assert sentence.endswith(f"; open {run / 'report.html'} in a browser to see more.")
    assert " is healthy: its loss " in sentence
    assert (run / "report.html").is_file()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff\0", b"[" * 100_000, b"[]", b"3", b"null", b"{}"),
        *(b'{"test_accuracy": 3}', b'{"test_accuracy": {"mean": "x", "std": 1}}'),
        b'{"raw_pixels": null}',
    ],
)
@pytest.mark.parametrize("name", ["random-knn", "baselines"])
def test_a_damaged_result_costs_its_cells_alone(
    name: str, content: bytes, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / f"{name}.json").write_bytes(content)
    main([str(run)])
    assert capsys.readouterr().out.count("0.500 ± 0.010") == (3 if name == "random-knn" else 4)


def test_features_and_baselines_stand_in_one_table_of_few_labels(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, curve, values in (
        ("few_labels", "pretrained probe", (0.2, 0.4)),
        ("baselines-few_labels", "HOG, ridge", (0.3, 0.35)),
        ("more", "HOG, ridge", (0.1, 0.15)),
    ):
        curves = Curves("accuracy")
        for size in (10, 5):
            for value in values:
                curves.add(f"{size} per class", curve, 9 * size, {"accuracy": value + size / 100})
        (run / f"{name}.json").write_text(json.dumps(curves.content()))
    main([str(run)])
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Few labels: accuracy"))
    assert " ".join(lines[start + 1].split()) == "learned 5 per class 10 per class"
    expected = {
        "pretrained probe": "0.350 ± 0.141 0.400 ± 0.141",
        "baselines-few_labels: HOG, ridge": "0.375 ± 0.035 0.425 ± 0.035",
        "more: HOG, ridge": "0.175 ± 0.035 0.225 ± 0.035",
    }
    rows = [" ".join(line.split()) for line in lines[start + 2 : start + 5]]
    assert sorted(rows) == sorted(f"{name} {cells}" for name, cells in expected.items())


def test_it_writes_where_it_is_told(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere.html"
    main([str(run), "--out", str(out)])
    assert out.read_text().startswith("<!doctype html>")
    assert not (run / "report.html").exists()


def test_a_folder_of_runs_gives_the_report_of_all(run: Path) -> None:
    for name in ("a", "b"):
        (run / "all" / name).mkdir(parents=True)
        (run / "all" / name / "metrics.jsonl").write_text(f"{json.dumps(LINE)}\n")
    main([str(run / "all")])
    assert "<h1>a · b</h1>" in (run / "all" / "report.html").read_text()


def test_what_is_no_run_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no run: it has neither config\.yaml nor metrics"):
        main([str(tmp_path)])
    with pytest.raises(ValueError, match=r"none is no directory: name that of a run"):
        main([str(tmp_path / "none")])
