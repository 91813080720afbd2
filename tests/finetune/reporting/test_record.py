"""What is read of a run's directory, whatever has become of it."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from fcmae.run.lock import LOCK, acquire, release
from fcmae.run.metrics import read_metrics
from finetune.reporting.page import page
from finetune.reporting.record import RunRecord, read_run, read_runs
from tests.support.records import write_bad_samples, write_run


def read(run: Path) -> RunRecord:
    return read_run(run, run.name)


def test_a_real_run_is_read_whole(trained: Path) -> None:
    (run,) = read_runs([trained])
    assert (run.name, run.step, run.total, run.writer) == ("trained", 6, 6, None)
    assert run.metrics == read_metrics(trained)
    assert run.series("loss") == [(line["step"], line["loss"]) for line in run.metrics]
    assert run.value("model.name") == "convnextv2_atto"
    assert run.number("optim.steps") == 6
    assert run.number("model.name") is None
    assert run.samples == 4886
    assert len(run.starts) == 1
    assert run.problems == []


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\0", b"{", b"[" * 100_000, b"3", b"null", b"{}", b'["a", 2]']
)
@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "data.json", "state.json"])
def test_a_damaged_record_costs_a_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_bad_samples(run, "a")
    next(run.rglob(name)).write_bytes(content)
    record = read(run)
    assert record.step == 40
    harmless = {("config.yaml", b"{}"), ("environment.json", b'["a", 2]'), ("state.json", b"{}")}
    if (name, content) not in harmless:
        assert name in " ".join(record.problems)
    assert "<td>0.5104</td>" in page([record])


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "data.json", "metrics.jsonl"])
def test_a_missing_record_costs_a_sentence(name: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / name).unlink()
    assert read(run).problems == [f"{name} is missing."]
    assert f"{name} is missing." in page([read(run)])


def test_lines_that_are_none_of_later_steps_are_left_out_and_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 5)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 9}\nnull\n{"step": 7, "loss": "high"}\n{"step": 8, "lo')
    record = read(run)
    assert [line["step"] for line in record.metrics] == [1, 2, 3, 4, 5, 7]
    assert [step for step, _ in record.series("loss")] == [1, 2, 3, 4, 5]
    (told,) = record.problems
    assert told.startswith("metrics.jsonl is damaged: 2 lines, the first of them line 6, are none")


def test_a_run_that_just_began_has_a_report(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("optim: {steps: 10}\n")
    assert "It has logged no step." in page([read(run)])


def test_who_trains_is_told_while_the_lock_is_held(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 5)
    acquire(run, 0.0)
    try:
        writer = read(run).writer
        assert writer is not None
        assert writer.startswith(f"{os.getpid()} on {socket.gethostname()} since ")
        assert "It still trains: step 5 of 40" in page([read(run)])
    finally:
        release(run, made=False)
    assert read(run).writer is None


@pytest.mark.parametrize(
    "content",
    ["", "nobody", f"{2**22 + 1} on {socket.gethostname()} since 2020-01-01 00:00:00+00:00"],
)
def test_a_lock_that_a_kill_has_left_means_nothing(content: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / LOCK).write_text(f"{content}\n")
    assert read(run).writer is None


def test_bad_samples_are_those_of_the_newest_checkpoint(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_bad_samples(run, "first", "second")
    record = read(run)
    assert [(bad.key, bad.why) for bad in record.bad_samples] == [
        ("first", "no image"),
        ("second", "no image"),
    ]
    assert record.bad_counts == {"a.tar": 2}


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    one, other, third = (write_run(tmp_path / p) for p in ("a/run", "b/run", "c"))
    assert [run.name for run in read_runs([one, third])] == ["run", "c"]
    assert [run.name for run in read_runs([one, other])] == ["a/run", "b/run"]
    assert len(read_runs([one, one, tmp_path / "b" / ".." / "a" / "run"])) == 1


def result(path: Path, weights: str | None) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps({"weights": weights, "test_accuracy": {"mean": 0.5, "std": 0.1}}))


def test_results_are_found_in_the_run_and_beside_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "set" / "pretrain")
    result(run / "pretrained-knn.json", "runs/x")
    result(run / "tuned" / "seed 0.json", "runs/x")
    result(run / "step_0000040" / "state.json", "runs/x")
    result(tmp_path / "set" / "fcmae.json", "runs/y")
    (tmp_path / "set" / "seconds.json").write_text("{}")
    (tmp_path / "set" / "notes.json").write_text('{"note": 1}')
    names = [found.name for found in read(run).results]
    assert names == ["pretrained-knn", "tuned/seed 0", "../fcmae"]


def test_beside_several_runs_a_result_belongs_to_that_of_its_weights(tmp_path: Path) -> None:
    one, other = (write_run(tmp_path / name) for name in ("one", "other"))
    result(tmp_path / "probe.json", str(one / "encoder.safetensors"))
    result(tmp_path / "knn.json", "somewhere/else.safetensors")
    assert [found.name for found in read(one).results] == ["../probe"]
    assert read(other).results == []


def test_a_damaged_result_of_the_run_is_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "probe.json").write_text("{")
    (told,) = read(run).problems
    assert told.startswith("The result probe.json cannot be read: ")


def test_a_copy_of_a_run_gives_the_same_page(trained: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(trained, tmp_path / trained.name)
    same = page(read_runs([copy])) == page(read_runs([trained]))
    assert same  # not compared here: pytest would look for the difference in megabytes of text
