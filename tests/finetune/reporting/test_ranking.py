"""Which figure ranks runs as labels do: Spearman's correlation, out of files of results."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.frozen.figures import figures_of
from finetune.labels.results import spread
from finetune.reporting import results
from finetune.reporting.ranking import (
    Judged,
    figures_table,
    judged,
    judged_by_files,
    ranking,
    ranking_table,
    spearman,
)
from finetune.reporting.record import read_runs
from finetune.training.curves import Curves

ACCURACIES = (0.3, 0.5, 0.4, 0.7, 0.6)  # of five runs, in the order of which RankMe grows but once


def probe(n: int, pool: str = "last", **other: object) -> dict[str, Any]:
    """What a linear probe of run n writes."""
    figures = {"rankme": 10.0 + n, "alpha_req": 1.5 - 0.1 * n, "feature_distance": 0.4}
    told = {"weights": f"{n}.safetensors", "step": 3, "pool": pool, "chosen": [{"lr": 0.1}]}
    return told | figures | {"test_accuracy": spread([ACCURACIES[n]])} | other


def few(folder: Path, n: int) -> Path:
    """What learning from few labels writes of run n, by the code that writes it."""
    curves = Curves("accuracy")
    for column, value in (("pretrained probe", 1 - 0.1 * n), ("random probe", 0.2)):
        curves.add("5 per class", column, 15, {"accuracy": value})
    out = folder / "few.json"
    curves.write(out, f"{n}.safetensors", "grid2", 1)
    return out


def files_of(folder: Path, n: int) -> list[Path]:
    """A run's results: of a probe and of few labels."""
    folder.mkdir(parents=True)
    (folder / "probe.json").write_text(json.dumps(probe(n)))
    return [folder / "probe.json", few(folder, n)]


def test_a_figure_is_judged_by_the_order_it_puts_runs_in(tmp_path: Path) -> None:
    runs = [judged_by_files(f"run{n}", files_of(tmp_path / str(n), n)) for n in range(5)]
    found = {(r.figure, r.accuracy): r.correlation for r in ranking(runs)}
    for figure in ("effective rank (RankMe)", "alpha-ReQ, nearness to 1"):
        assert found[figure, "linear probe, all labels"] == pytest.approx(0.8)  # 1 - 6 * 4 / 120
        assert found[figure, "probe, 5 per class, grid2"] == pytest.approx(-1)
    assert found["feature distance", "linear probe, all labels"] is None
    assert all(ranked.runs == 5 for ranked in ranking(runs))
    heads, rows = ranking_table(runs) or pytest.fail("no table")
    assert heads == ["figure", "probe, 5 per class, grid2", "linear probe, all labels"]
    assert rows[0] == ["effective rank (RankMe)", "-1.00 (5 runs)", "+0.80 (5 runs)"]
    assert rows[2][1] == "not defined (5 runs)"


def test_ties_have_their_mean_rank() -> None:
    # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4
    assert spearman((1.0, 2.0, 2.0, 3.0), (1.0, 2.0, 3.0, 4.0)) == pytest.approx(0.9486832980505138)


def test_three_runs_tell_nothing() -> None:
    runs = [judged(f"run{n}", [probe(n)]) for n in range(3)]
    assert ranking(runs) == []
    assert ranking_table(runs) is None
    assert (figures_table(runs) or pytest.fail("no table"))[1][0] == ["run0", "10", "1.5", "0.4"]


def test_runs_without_one_of_the_two_are_left_out() -> None:
    runs = [judged(f"run{n}", [probe(n)]) for n in range(4)]
    runs.append(Judged(name="no figures", figures={}, accuracies={"linear probe, all labels": 1.0}))
    assert {ranked.runs for ranked in ranking(runs)} == {4}


def test_the_random_start_counts_where_nothing_else_was_measured() -> None:
    random = probe(0, weights="none", step=0)
    assert judged("run", [random, probe(3)]) == judged("run", [probe(3)])
    assert judged("run", [random]).accuracies == {"linear probe, all labels": 0.3}


def test_the_latest_step_counts_and_what_was_pooled_tells_results_apart() -> None:
    run = judged("run", [probe(4, step=9), probe(1, step=5), probe(2, pool="grid2")])
    assert run.figures["rankme", "last"] == 14
    assert run.figures["rankme", "grid2"] == 12
    assert run.accuracies == {
        "linear probe, all labels": 0.6,
        "linear probe, all labels, grid2": 0.4,
    }
    assert judged("run", [probe(0, alpha_req=None)]).figures.keys() == {
        ("rankme", "last"),
        ("feature_distance", "last"),
    }


def test_a_report_on_four_runs_has_the_table(tmp_path: Path) -> None:
    runs = [tmp_path / f"run{n}" for n in range(4)]
    for n, run in enumerate(runs):
        run.mkdir()
        (run / "probe.json").write_text(json.dumps(probe(n)))
        (run / "config.yaml").write_text("seed: 0\n")
    (runs[0] / "damaged.json").write_text(json.dumps(probe(0) | {"rankme": "many"}))
    section = results.section(read_runs(runs))
    assert section is not None
    assert "Spearman" in section.body
    assert "+0.80 (4 runs)" in section.body
    alone = results.section(read_runs(runs[:1]))
    assert alone is not None
    assert "Spearman" not in alone.body
    assert "effective rank (RankMe)" in alone.body


def test_figures_are_those_of_the_features_and_the_mean_distance() -> None:
    x = torch.eye(8)[:, :4].repeat(3, 1)  # four directions, none of them preferred
    found = figures_of(x, torch.linspace(0.1, 0.3, 24))
    assert found["rankme"] == pytest.approx(4)
    assert found["feature_distance"] == pytest.approx(0.2)
    assert figures_of(torch.randn(3, 2), torch.zeros(3))["alpha_req"] is None
