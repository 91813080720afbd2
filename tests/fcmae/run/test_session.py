"""A session carries a run from its newest checkpoint to its end, or to the signal that stops it."""

import json
import os
import signal
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from data.bad_samples import BadSample, BadSamples
from data.shards.index import Shard
from fcmae.model_config import ModelConfig
from fcmae.run import checkpoint, directory
from fcmae.run.files import file_sha256
from fcmae.run.learner import Learner
from fcmae.run.metrics import read_metrics
from fcmae.run.optim import OptimConfig
from fcmae.run.options import RunConfig
from fcmae.run.session import Session
from fcmae.run.starting import distribute, newest_checkpoint, resume
from fcmae.run.stopping import STATUS
from tests.support.learners import assert_equal, learner_of, train
from tests.support.limits import files_end_at


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the shards lie."""

    train: str = "a.tar"


@dataclass(frozen=True, kw_only=True)
class Config:
    """The config of a run of these tests."""

    run: RunConfig = field(default_factory=lambda: RunConfig(save_every=2, log_every=1))
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    out: Path = Path("out.json")
    data: Data = field(default_factory=Data)
    output_dim: int = 3
    """A field whose name begins like another one."""


def names(step: int, rank: int) -> list[str]:
    return [f"step {step} of rank {rank}"]


def session_of(
    run: Path, learner: Learner, config: Config | None = None, shards: Sequence[Shard] = ()
) -> Session:
    config = config or Config()
    bad = BadSamples(16, max_fraction=0.5)
    return Session(
        *(run, config.run, config, learner, bad),
        end=4,
        title="small",
        names_of_step=names,
        shards=shards,
    )


def go(session: Session, *, kill_at: int | None = None, bad: list[BadSample] | None = None) -> None:
    """The loop of a program, with the same images in every call; perhaps a signal in a step."""
    batches: Iterator[dict[str, Any]] = iter([{"bad": bad or []}] * 4)
    for step in session.steps():
        session.take(batches)
        train(session.learner, range(step, step + 1), measure=session.logging)
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGTERM)
        line = session.measure()
        if line is not None:
            session.log(line)
        session.save()
    session.end()


def steps_of(run: Path) -> list[int]:
    return [line["step"] for line in read_metrics(run)]


def losses_of(run: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_metrics(run)]


def resumed(run: Path) -> Learner:
    """A new learner, from the newest whole checkpoint."""
    learner = learner_of()
    resume(learner, run, newest_checkpoint(run, learner.accelerator))
    return learner


def test_a_run_logs_and_saves_when_it_is_due(tmp_path: Path) -> None:
    config = Config(run=RunConfig(save_every=3, log_every=2))
    learner = learner_of()
    go(session_of(tmp_path, learner, config))
    assert steps_of(tmp_path) == [2, 3, 4]  # a step that is saved is logged, too
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == [
        "step_0000003",
        "step_0000004",
    ]
    (start,) = json.loads((tmp_path / "environment.json").read_text())
    assert (start["step"], start["world_size"], start["device"]) == (0, 1, "cpu")


def test_checkpoints_are_written_by_the_clock_and_change_no_line(tmp_path: Path) -> None:
    config = Config(run=RunConfig(save_every=None, save_minutes=1e-9, log_every=3, keep=9))
    by_clock = learner_of()
    go(session_of(tmp_path / "clock", by_clock, config))
    assert steps_of(tmp_path / "clock") == [3, 4]
    written = [path.name for path in checkpoint.checkpoints(tmp_path / "clock")]
    assert written == [f"step_{step:07d}" for step in (1, 2, 3, 4)]
    config = Config(run=RunConfig(save_every=None, save_minutes=60.0, log_every=3))
    at_the_end = learner_of()
    go(session_of(tmp_path / "end", at_the_end, config))
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "end")] == ["step_0000004"]
    assert_equal(by_clock, at_the_end)


def test_a_signal_ends_the_steps_and_saves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learner = learner_of()
    with pytest.raises(SystemExit) as exit_:
        go(session_of(tmp_path, learner), kill_at=0)
    assert exit_.value.code == STATUS[signal.SIGTERM]
    assert learner.state.step == 1
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step_0000001"]
    assert "SIGTERM: stopped and saved at step 1" in capsys.readouterr().out


def test_signals_are_given_back_at_the_end(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in STATUS}
    session = session_of(tmp_path, learner_of())
    assert all(signal.getsignal(number) != handler for number, handler in before.items())
    go(session)
    assert {number: signal.getsignal(number) for number in STATUS} == before


def test_a_stopped_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole, stopped, resumed = (learner_of(ema=0.9) for _ in range(3))
    go(session_of(tmp_path / "whole", whole))
    with pytest.raises(SystemExit):
        go(session_of(tmp_path / "stopped", stopped), kill_at=2)
    newest = newest_checkpoint(tmp_path / "stopped", resumed.accelerator)
    resume(resumed, tmp_path / "stopped", newest)
    go(session_of(tmp_path / "stopped", resumed))
    assert_equal(resumed, whole)
    losses = [
        [(line["step"], line["loss"]) for line in read_metrics(tmp_path / name)]
        for name in ("stopped", "whole")
    ]
    assert losses[0] == losses[1]


def test_metrics_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    config = Config(run=RunConfig(save_every=1, log_every=1))
    go(session_of(tmp_path, learner_of(), config))
    for step in (3, 4):
        (tmp_path / f"step_{step:07d}").rename(tmp_path / f"lost_{step}")
    resumed = learner_of()
    resume(resumed, tmp_path, newest_checkpoint(tmp_path, resumed.accelerator))
    session = session_of(tmp_path, resumed, config)
    assert steps_of(tmp_path) == [1, 2]
    go(session)
    assert steps_of(tmp_path) == [1, 2, 3, 4]


def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learner = learner_of()
    go(session_of(tmp_path, learner))
    (tmp_path / "step_0000004" / checkpoint.MODEL).write_bytes(b"")
    newest = newest_checkpoint(tmp_path, learner.accelerator)
    assert newest == tmp_path / "step_0000002"
    assert "step_0000004 is damaged" in capsys.readouterr().out


def test_a_complete_run_is_said_to_be_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go(session_of(tmp_path, learner_of()))
    again = learner_of()
    resume(again, tmp_path, newest_checkpoint(tmp_path, again.accelerator))
    assert again.finished
    assert f"{tmp_path} is complete at step 4 of 4" in capsys.readouterr().out


def test_bad_samples_are_named_once_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = BadSample("a.tar", 7, "7", "no image")
    go(session_of(tmp_path, learner_of()), bad=[sample])
    assert capsys.readouterr().out.count("skipped a.tar: sample '7': no image") == 1
    assert [line["bad_samples"] for line in read_metrics(tmp_path)] == [{"a.tar": 1}] * 4


def test_the_count_of_bad_samples_survives_a_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [BadSample("a.tar", i, str(i), "no image") for i in range(5)]
    with pytest.raises(SystemExit):
        go(session_of(tmp_path, learner_of()), kill_at=1, bad=samples)
    capsys.readouterr()
    again = session_of(tmp_path, resumed(tmp_path))
    another = [BadSample("a.tar", i, "key of another crop", "too small") for i in range(5)]
    go(again, bad=[*another, BadSample("b.tar", 0, "0", "no image")])
    assert capsys.readouterr().out.count("skipped") == 1
    counted = [line["bad_samples"] for line in read_metrics(tmp_path)]
    assert counted == [{"a.tar": 5}] * 2 + [{"a.tar": 5, "b.tar": 1}] * 2


def test_bad_samples_of_before_a_restart_count_for_the_share_that_stops(tmp_path: Path) -> None:
    samples = [BadSample("a.tar", i, str(i), "no image") for i in range(5)]
    with pytest.raises(SystemExit):
        go(session_of(tmp_path, learner_of()), kill_at=1, bad=samples)
    more = [BadSample("b.tar", i, str(i), "no image") for i in range(4)]
    with pytest.raises(ValueError, match=r"9 of 16 samples are broken.*'0': no image; a\.tar"):
        go(session_of(tmp_path, resumed(tmp_path)), bad=more)


def test_a_checkpoint_of_before_bad_samples_were_kept_resumes(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        go(session_of(tmp_path, learner_of()), kill_at=1)
    newest = tmp_path / "step_0000002"
    state = json.loads((newest / checkpoint.STATE).read_text())
    del state["bad"]
    (newest / checkpoint.STATE).write_text(json.dumps(state))
    names = [line.split("  ")[1] for line in (newest / checkpoint.SUMS).read_text().splitlines()]
    sums = (f"{file_sha256(newest / name)}  {name}\n" for name in names)
    (newest / checkpoint.SUMS).write_text("".join(sums))
    go(session_of(tmp_path, resumed(tmp_path)), bad=[BadSample("a.tar", 0, "0", "no image")])
    assert read_metrics(tmp_path)[-1]["bad_samples"] == {"a.tar": 1}


def test_too_many_bad_samples_stop_the_run(tmp_path: Path) -> None:
    samples = [BadSample("a.tar", i, str(i), "no image") for i in range(9)]
    with pytest.raises(ValueError, match="9 of 16 samples are broken"):
        go(session_of(tmp_path, learner_of()), bad=samples)


def test_a_checkpoint_that_cannot_be_written_stops_the_run_and_names_what_is_kept(
    tmp_path: Path,
) -> None:
    go(session_of(tmp_path / "whole", whole := learner_of()))
    run, kept = tmp_path / "run", "run/step_0000001 is kept: make room, or let it be written, and"
    with pytest.raises(SystemExit):
        go(session_of(run, learner_of()), kill_at=0)
    learner = resumed(run)
    with files_end_at(4000), pytest.raises(OSError, match=rf"step_0000002 cannot be .*{kept}"):
        go(session_of(run, learner))
    assert [path.name for path in checkpoint.checkpoints(run)] == ["step_0000001"]
    learner = resumed(run)
    go(session_of(run, learner))
    assert_equal(learner, whole)
    assert losses_of(run) == losses_of(tmp_path / "whole")


def test_lines_that_wait_are_not_lost_where_the_run_is_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go(session_of(tmp_path / "whole", learner_of()))
    run = tmp_path / "run"
    learner = learner_of()
    session = session_of(run, learner)
    (run / "metrics.jsonl").mkdir()  # in the way, until after the end
    go(session)
    assert capsys.readouterr().out.count("warning: ") == 1
    (run / "metrics.jsonl").rmdir()
    assert resumed(run).finished
    assert losses_of(run) == losses_of(tmp_path / "whole")


def test_a_signal_saves_beside_damaged_checkpoints_of_later_steps(tmp_path: Path) -> None:
    config = Config(run=RunConfig(save_every=1, log_every=1, keep=4))
    go(session_of(tmp_path, learner_of(), config))
    for step in (2, 3, 4):
        (tmp_path / f"step_000000{step}" / checkpoint.MODEL).write_bytes(b"")
    learner = resumed(tmp_path)
    config = Config(run=RunConfig(save_every=9, log_every=1, keep=1))
    with pytest.raises(SystemExit):
        go(session_of(tmp_path, learner, config), kill_at=1)
    assert newest_checkpoint(tmp_path, learner.accelerator) == tmp_path / "step_0000002"


def test_what_a_kill_left_is_swept_away_at_the_start_and_others_files_are_not(
    tmp_path: Path,
) -> None:
    go(session_of(tmp_path, learner_of()))
    left = ("step_0000002.tmp", "step_0000004.old.tmp", ".config.yaml.ab12.tmp")
    left += ("pictures/.step_0000003.png.ab12.tmp", "watched/.images.safetensors.ab12.tmp")
    left += (".encoder.safetensors.ab12.tmp",)
    for name in left:
        (tmp_path / name).mkdir(parents=True)
    resumed(tmp_path)
    assert sorted(tmp_path.rglob("*.tmp")) == [tmp_path / left[-1]]  # which a converter may write


def test_one_process_trains_the_model_itself() -> None:
    model = torch.nn.Linear(1, 1)
    assert distribute(model, Accelerator(cpu=True), (torch.nn.Linear,)) is model


def compare(run: Path, config: Config, said: list[str], shards: Sequence[Shard] = ()) -> list[str]:
    """Compare as a program does, which frees `out` but not `output_dim`."""
    free, length = ("run.", "out"), ("optim.steps",)
    return directory.compare(run, config, said.append, free=free, length=length, shards=shards)


def test_a_restart_may_change_what_is_free_and_the_length(tmp_path: Path) -> None:
    go(session_of(tmp_path, learner_of()))
    said: list[str] = []
    same = Config(run=RunConfig(save_every=7), out=Path("elsewhere"))
    assert compare(tmp_path, same, said) == []
    longer = Config(optim=OptimConfig(steps=9))
    assert compare(tmp_path, longer, said) == ["optim.steps: None -> 9"]
    assert said == ["optim.steps: None -> 9: the schedule is that of the new length from here on"]


def test_a_run_that_is_older_than_a_field_resumes_with_the_default_of_the_field(
    tmp_path: Path,
) -> None:
    go(session_of(tmp_path, learner_of()))
    written = tmp_path / "config.yaml"
    older = "".join(
        line for line in written.read_text().splitlines(True) if "output_dim" not in line
    )
    assert older != written.read_text()
    written.write_text(older)
    assert compare(tmp_path, Config(), []) == []
    with pytest.raises(ValueError, match=r"another config \(output_dim: 3 -> 4\)"):
        compare(tmp_path, Config(output_dim=4), [])


def test_a_free_field_frees_no_field_whose_name_begins_like_it(tmp_path: Path) -> None:
    go(session_of(tmp_path, learner_of()))
    with pytest.raises(ValueError, match=r"another config \(output_dim: 3 -> 4\)"):
        compare(tmp_path, Config(output_dim=4), [])


def test_a_directory_without_checkpoints_accepts_any_config(tmp_path: Path) -> None:
    assert compare(tmp_path, Config(output_dim=4), []) == []


def shard(name: str, content: str, samples: int = 8) -> Shard:
    return Shard(url=f"/d/{name}", size=1, sha256=content, offsets=array("q", range(samples + 1)))


ONE, TWO = shard("1.tar", "aa"), shard("2.tar", "bb")


def test_a_run_goes_on_where_its_shards_have_moved(tmp_path: Path) -> None:
    go(session_of(tmp_path, learner_of(), shards=[ONE, TWO]))
    moved = Config(data=Data(train="elsewhere"))
    assert compare(tmp_path, moved, [], [shard("x.tar", "aa"), TWO]) == []
    with pytest.raises(ValueError, match=r"another config \(data\.train: a\.tar -> elsewhere\)"):
        compare(tmp_path, moved, [])


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([ONE, shard("2.tar", "cc", 9)], r"changed 2\.tar \(8 -> 9 samples\); restore"),
        ([ONE], r"gone 2\.tar; restore these shards, or start another --run\.dir"),
        ([ONE, TWO, shard("3.tar", "cc")], r"new 3\.tar;"),
        ([shard("0.tar", "cc"), TWO], r"gone 1\.tar, new 0\.tar;"),
        ([TWO, ONE], r"the shards come in another order"),
    ],
)
def test_other_training_data_are_refused_by_name(
    tmp_path: Path, shards: list[Shard], message: str
) -> None:
    go(session_of(tmp_path, learner_of(), shards=[ONE, TWO]))
    with pytest.raises(ValueError, match=message):
        compare(tmp_path, Config(), [], shards)


def test_a_run_without_a_record_of_its_data_resumes_and_has_one_then(tmp_path: Path) -> None:
    go(session_of(tmp_path, learner_of()))
    assert not (tmp_path / "data.json").exists()
    assert compare(tmp_path, Config(), [], [ONE]) == []
    with pytest.raises(ValueError, match=r"another config \(data\.train: "):
        compare(tmp_path, Config(data=Data(train="elsewhere")), [], [ONE])
    session_of(tmp_path, learner_of(), shards=[ONE])
    with pytest.raises(ValueError, match=r"has trained on other data: gone 1\.tar, new 2\.tar"):
        compare(tmp_path, Config(), [], [TWO])
