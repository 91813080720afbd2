"""The report of a program: numbers first, names as they are, and what fails beside them."""

import json
from pathlib import Path

import pytest

from finetune.labels.results import report

RESULT = {
    "model": "m",
    "weights": "[bold]none",
    "auc": None,
    "accuracy": 0.5,
    "per_class": {"[/red]": {"f1": 0.25}, "[link=x]": {"f1": None}},
}


def test_names_are_printed_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "out.json"
    report("test [/x]", RESULT, out, then="python -m program")
    told = capsys.readouterr().out
    for text in ("[/red]", "[link=x]", "[bold]none", "test [/x]", "not defined", "0.2500"):
        assert text in told
    assert told.endswith(f"written: {out}\nnext: python -m program\n")


def test_a_picture_that_fails_costs_no_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"

    def draw(path: Path) -> None:
        assert json.loads(out.read_text()) == RESULT  # it is written before
        raise RuntimeError("no font")

    report("test", RESULT, out, draw=(tmp_path / "p.png", draw))
    told = capsys.readouterr().out
    assert (
        f"{tmp_path}/p.png cannot be made (RuntimeError: no font); {out} has the numbers\n" in told
    )
    assert "Traceback" not in told
