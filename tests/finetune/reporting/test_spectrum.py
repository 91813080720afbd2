"""Collapse, effective rank, alpha-ReQ and k-NN of a run, from its lines of metrics."""

import json
from pathlib import Path
from typing import Any

from finetune.reporting.record import read_run
from finetune.reporting.section import Section
from finetune.reporting.spectrum import MOST_LINES, section


def made_of(folder: Path, *runs: list[dict[str, Any]]) -> Section | None:
    """The section of runs with these lines."""
    records = []
    for number, lines in enumerate(runs):
        run = folder / f"run{number}"
        run.mkdir()
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (run / "metrics.jsonl").write_text(text)
        records.append(read_run(run, run.name))
    return section(records)


def test_all_measures_of_two_runs_are_drawn(tmp_path: Path) -> None:
    one = [{"step": s, "rankme": 4.0 + s, "alpha_req": 1.5, "collapse": [0.4, 0.2]} for s in (1, 2)]
    other = [{"step": 5, "rankme": 9.0, "knn_accuracy": 0.5}]
    made = made_of(tmp_path, one, other)
    assert made is not None
    assert made.data["rankme"] == [
        {"run": "run0", "step": 1, "value": 5.0},
        {"run": "run0", "step": 2, "value": 6.0},
        {"run": "run1", "step": 5, "value": 9.0},
    ]
    assert made.data["collapse0"][-1] == {"step": 2, "block": 2, "distance": 0.2}
    names = ("rankme", "alpha_req", "knn_accuracy", "collapse0")
    assert set(made.charts) == {f"spectrum-{name}" for name in names}
    assert all(f'id="spectrum-{name}"' in made.body for name in names)


def test_the_block_that_collapses_is_named(tmp_path: Path) -> None:
    made = made_of(
        tmp_path,
        [{"step": 7, "collapse": [0.4, 0.02, 0.05]}],
        [{"step": 8, "collapse": [0.4, 0.3]}],
    )
    assert made is not None
    assert "At step 7 the least distance is 0.020, in block 2. 2 of 3 blocks are below 0.1" in (
        made.body
    )
    assert "At step 8 the least distance is 0.300, in block 2. No block is below 0.1" in made.body


def test_an_even_choice_of_steps_is_drawn(tmp_path: Path) -> None:
    made = made_of(tmp_path, [{"step": s, "collapse": [0.5]} for s in range(1, 100)])
    assert made is not None
    steps = [row["step"] for row in made.data["collapse0"]]
    assert (len(steps), steps[0], steps[-1]) == (MOST_LINES, 1, 99)


def test_values_of_others_are_left_out(tmp_path: Path) -> None:
    wrong: list[Any] = [None, "0.1", [], [0.1, None], [[0.1]], {"0": 0.1}, [float("nan")], [True]]
    lines = [{"step": i, "collapse": value, "rankme": value} for i, value in enumerate(wrong, 1)]
    assert made_of(tmp_path, lines) is None
