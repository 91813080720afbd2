"""scripts/reproduce.py: the tables of few labels, out of what was measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scripts import reproduce
from scripts.reproduce import SETS, with_table

PAGE = """before
<!-- reproduce elpv: begin -->
of elpv
<!-- reproduce elpv: end -->
between
<!-- reproduce emoji: begin -->
of emoji
<!-- reproduce emoji: end -->
after
"""
EMOJI = next(data for data in SETS if data.name == "emoji")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of runs."""
    monkeypatch.setattr(reproduce, "RUNS", tmp_path)
    return tmp_path


def measure(run: Path, start: str, seeds: int, first: float) -> None:
    """Leave the results of a fine-tuning as finetune.few_shot does."""
    (run / "fcmae").mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        measured = {"accuracy": first + seed / 10, "balanced_accuracy": 0.25, "auc": 0.75}
        cell = run / "fcmae" / f"0.1-seed{seed}-{start}-finetune.json"
        cell.write_text(json.dumps({"measured": measured}))
    (run / "seconds.json").write_text(json.dumps({"pretrain": 1800, "fcmae": 3600}))


def test_table_has_mean_and_spread_over_seeds_and_hours(runs: Path):
    measure(EMOJI.run, "pretrained", 3, 0.3)
    made = with_table(PAGE, EMOJI)
    assert (
        "| convnextv2_atto, FCMAE | finetune | 0.400 ± 0.100 | 0.250 ± 0.000 | 0.750 ± 0.000 |"
        in made
    )
    assert "600 steps, 3 seeds, 1.5 h:" in made


def test_table_leaves_out_models_that_lack_seeds(runs: Path):
    measure(EMOJI.run, "pretrained", 3, 0.3)
    measure(EMOJI.run, "random", 2, 0.3)
    assert "convnextv2_atto, random" not in with_table(PAGE, EMOJI)


def test_table_replaces_its_own_and_nothing_else(runs: Path):
    measure(EMOJI.run, "pretrained", 3, 0.3)
    made = with_table(PAGE, EMOJI)
    assert "of emoji" not in made
    assert made.startswith(PAGE.partition("of emoji")[0])
    assert made.endswith("<!-- reproduce emoji: end -->\nafter\n")
    assert with_table(made, EMOJI) == made


def test_table_stays_where_nothing_was_measured(runs: Path):
    assert with_table(PAGE, EMOJI) == PAGE


def test_a_page_without_marks_is_an_error(runs: Path):
    data = replace(EMOJI, name="other")
    measure(data.run, "random", 3, 0.3)
    with pytest.raises(ValueError, match="lacks the lines <!-- reproduce other: begin -->"):
        with_table(PAGE, data)
