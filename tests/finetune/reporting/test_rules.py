"""Each rule speaks of a run that deserves it, and of no other."""

from pathlib import Path

import pytest

from finetune.reporting.health import verdict_on
from finetune.reporting.record import read_run
from finetune.reporting.rules import RULES
from tests.support.records import HEALTHY, Columns, write_bad_samples, write_run

SPIKES = (25, 30, 35)

# rule: what makes it speak, and what is just not enough
CASES: dict[str, tuple[Columns, Columns]] = {
    "loss flat": ({"loss": lambda i: 0.9 - 1e-4 * i}, {"loss": lambda i: 0.9 - 1e-3 * i}),
    "loss rises": (
        {"loss": lambda i: 0.5 + abs(i - 20) / 100},
        {"loss": lambda i: 0.9 - i / 100 if i < 30 else 0.62},
    ),
    "data-bound": ({"data_wait": lambda i: 0.3}, {"data_wait": lambda i: 0.9 if i < 19 else 0.1}),
    "gradient spikes": (
        {"grad_norm": lambda i: 9.0 if i in SPIKES else 1.0},
        {"grad_norm": lambda i: 9.0 if i in SPIKES[:2] else 1.0 + i % 2},
    ),
    "features collapse": (
        {"collapse": lambda i: [0.45, 0.5 / (i + 1)]},
        {"collapse": lambda i: [0.45, 0.01 if i < 20 else 0.3]},
    ),
    "samples alike": (
        {"uniformity": lambda i: -2.0 if i < 30 else -0.05},
        {"uniformity": lambda i: -0.05 if i < 30 else -2.0},
    ),
    "rank falls": (
        {"rankme": lambda i: 100.0 if i == 10 else 40.0},
        {"rankme": lambda i: 100.0 if i == 10 else 60.0},
    ),
}


def found(run: Path) -> dict[str, str]:
    """What speaks of a run: rules and the severity of what they find."""
    return {rule: finding.severity for rule, finding in verdict_on(read_run(run, "run")).found}


def test_a_healthy_run_is_called_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    verdict = verdict_on(read_run(run, "run"))
    assert (verdict.state, list(verdict.found)) == ("good", [])
    assert verdict.sentence == "run is healthy: its loss fell from 0.708 to 0.510 in 40 steps"


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_speaks_of_what_deserves_it(rule: str, tmp_path: Path) -> None:
    spoiled, fine = CASES[rule]
    verdict = verdict_on(read_run(write_run(tmp_path / "spoiled", columns=spoiled), "run"))
    assert [(name, finding.severity) for name, finding in verdict.found] == [(rule, "warning")]
    assert verdict.state == "warning"
    assert verdict.found[0][1].help
    assert found(write_run(tmp_path / "fine", columns=fine)) == {}


@pytest.mark.parametrize("rule", ["loss flat", "loss rises"])
def test_nothing_is_said_of_the_course_of_a_few_lines(rule: str, tmp_path: Path) -> None:
    spoiled, _ = CASES[rule]
    assert found(write_run(tmp_path / "run", 15, total=15, columns=spoiled)) == {"short": "note"}


def test_a_loss_that_was_not_finite_is_a_fault_until_the_run_has_passed_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 30, total=30)
    (run / "not_finite_0000031.json").write_text("{}")
    verdict = verdict_on(read_run(run, "run"))
    assert verdict.state == "fault"
    assert verdict.sentence.startswith("run has failed: the loss was not finite")
    (run / "not_finite_0000031.json").rename(run / "not_finite_0000012.json")
    assert found(run) == {"loss not finite": "warning"}


def test_a_file_of_another_name_tells_of_no_step(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "not_finite_x.json").write_text("{}")
    assert found(run) == {}


def test_a_run_that_stopped_early_is_told(tmp_path: Path) -> None:
    assert found(write_run(tmp_path / "run", 30)) == {"not at its end": "warning"}


def test_a_run_by_epochs_knows_its_end(tmp_path: Path) -> None:
    optim = {"optim": {"steps": None, "epochs": 30.0, "batch_size": 100}}
    assert found(write_run(tmp_path / "done", 30, config=optim)) == {}
    assert found(write_run(tmp_path / "stopped", 29, config=optim)) == {"not at its end": "warning"}


def test_a_run_without_a_step_is_a_fault(tmp_path: Path) -> None:
    assert found(write_run(tmp_path / "run", 0))["not at its end"] == "fault"


@pytest.mark.parametrize(("samples", "severity"), [(100, "warning"), (1000, "note")])
def test_bad_samples_are_counted(samples: int, severity: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 400, total=400, samples=samples)
    write_bad_samples(run, "a", "b")
    assert found(run) == {"bad samples": severity}


@pytest.mark.parametrize(
    ("samples", "severity"), [(201, "note"), (4001, "warning"), (200, None), (4000, "note")]
)
def test_few_passes_over_the_data_are_told(
    samples: int, severity: str | None, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", samples=samples)
    assert found(run) == ({"short": severity} if severity else {})


def test_files_that_are_missing_leave_a_run_healthy(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "environment.json").unlink()
    assert found(run) == {"files": "note"}
    assert verdict_on(read_run(run, "run")).state == "good"


def test_the_gravest_comes_first(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 30, samples=1000, columns={"data_wait": lambda i: 0.5})
    (run / "not_finite_0000031.json").write_text("{}")
    severities = list(found(run).values())
    assert severities == ["fault", "warning", "warning", "note"]


def test_values_of_any_kind_are_no_numbers(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        columns={key: lambda i: ["x", None, True, {}, []][i % 5] for key in HEALTHY},
    )
    assert found(run) == {}


def test_every_rule_has_a_name_of_its_own() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
