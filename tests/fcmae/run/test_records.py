"""What has become of the files of a run is told in a line, mended or kept; no restart fails."""

import json
from pathlib import Path

import pytest

from fcmae.run import checkpoint, directory
from fcmae.run.metrics import drop_metrics_after, read_metrics
from fcmae.run.starting import newest_checkpoint, resume
from tests.fcmae.run.test_session import (
    ONE,
    TWO,
    Config,
    Data,
    go,
    session_of,
    steps_of,
)
from tests.support.learners import learner_of

NONE = (b"", b"{", b"\0" * 40, b"\xff\xfe\x00", b"[" * 100_000, b"3", b"null", b'"x"', b"[1, {}]")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run at its end, with checkpoints of steps 2 and 4."""
    go(session_of(tmp_path, learner_of(), shards=[ONE, TWO]))
    (tmp_path / "step_0000004").rename(tmp_path / "lost")
    return tmp_path


def restart(run: Path, config: Config | None = None) -> list[str]:
    """Restart a run as programs do, and take its steps; returns what is said."""
    learner = learner_of()
    newest = newest_checkpoint(run, learner.accelerator)
    config = config or Config()
    said: list[str] = []
    directory.compare(*(run, config, said.append), free=("run.",), shards=[ONE, TWO], newest=newest)
    resume(learner, run, newest)
    go(session_of(run, learner, config, shards=[ONE, TWO]))
    return said


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, *NONE])
@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "data.json", "metrics.jsonl"])
def test_a_restart_mends_or_names_each_record(
    name: str, content: bytes | None, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run / name
    record.unlink()
    if content is not None:
        record.write_bytes(content)
    capsys.readouterr()
    said = "\n".join([*restart(run), capsys.readouterr().out])
    aside = record.with_name(f"{name}.damaged")
    damaged = content is not None and name != "metrics.jsonl"  # which has but a line that is cut
    if name == "environment.json" and content == b"[1, {}]":
        damaged = False  # a list of starts, whatever they tell
    elif name != "config.yaml":
        assert str(record) in said
    assert aside.exists() == damaged
    if damaged:
        assert aside.read_bytes() == content
        assert f"it is kept as {aside}" in said
    assert checkpoint.latest(run) == run / "step_0000004"
    assert [line["step"] for line in read_metrics(run)][-2:] == [3, 4]
    assert (run / "config.yaml").read_text() == (run / "step_0000004/config.yaml").read_text()
    assert json.loads((run / "environment.json").read_text())[-1]["step"] == 2
    assert json.loads((run / "data.json").read_text())["shards"]
    assert directory.compare(run, Config(), print, free=(), shards=[ONE, TWO]) == []


def test_the_config_of_the_checkpoint_is_compared_where_there_is_one(run: Path) -> None:
    (run / "config.yaml").write_text("out")
    with pytest.raises(ValueError, match=r"another config \(output_dim: 3 -> 4\); take .*dir$"):
        restart(run, Config(output_dim=4))
    assert (run / "config.yaml").read_text() == "out"


def test_another_config_is_refused_before_the_first_checkpoint(tmp_path: Path) -> None:
    session_of(tmp_path, learner_of(), Config(), shards=[ONE, TWO])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"3 -> 4\); .*, or remove this one, which has no check"):
        restart(tmp_path, Config(output_dim=4))
    with pytest.raises(ValueError, match="has trained on other data: gone"):
        directory.compare(tmp_path, Config(), print, free=(), shards=[ONE])
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    restart(tmp_path, Config(data=Data(train="elsewhere")))
    assert steps_of(tmp_path) == [1, 2, 3, 4]


def test_a_damaged_config_without_checkpoints_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session_of(tmp_path, learner_of())
    (tmp_path / "config.yaml").write_bytes(b"model: [\n")
    (line,) = restart(tmp_path)
    assert line.startswith(f"{tmp_path / 'config.yaml'} is no YAML: line 2: ")
    assert line.endswith("; this start is compared with nothing")
    assert f"it is kept as {tmp_path / 'config.yaml.damaged'}" in capsys.readouterr().out
    assert (tmp_path / "config.yaml.damaged").read_bytes() == b"model: [\n"


def lines(*steps: int) -> bytes:
    return b"".join(b'{"step": %d, "loss": NaN}\n' % step for step in steps)


@pytest.mark.parametrize(
    ("content", "kept", "wrong"),
    [
        (lines(1, 2, 3, 4) + b'{"step": 5, "lo', [1, 2, 3], None),
        (lines(1, 2, 3, 4) + b"\0" * 99, [1, 2, 3], None),
        (lines(1) + b"\0\xff{]\n" + lines(3, 4), [1, 3], 2),
        (lines(1) + b"\0" * 50 + lines(2, 3), [1, 3], 2),
        (lines(1, 2, 2, 3, 1, 4), [1, 2, 3], 3),
        (b"[1]\n3\n\n" + b"[" * 100_000 + b'\n{"step": "1"}\n' + lines(2), [2], 1),
        (b"\r\n".join([b'{"step": 1}', b'{"step": 2}', b""]), [1, 2], None),
    ],
)
def test_lines_of_metrics_are_kept_and_nothing_else_is_lost(
    content: bytes,
    kept: list[int],
    wrong: int | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    if wrong is not None and b"[1, " not in content and lines(1, 2, 2) not in content:
        with pytest.raises(ValueError, match=rf"metrics\.jsonl is damaged: line {wrong} is none"):
            read_metrics(tmp_path)
    drop_metrics_after(tmp_path, 3)
    assert steps_of(tmp_path) == kept
    said = capsys.readouterr().out
    aside = tmp_path / "metrics.jsonl.damaged"
    assert aside.exists() == (wrong is not None)
    if wrong is not None:
        assert f"the first of them line {wrong}, are none of later steps" in said
        assert f"it is kept as {aside}" in said
        assert aside.read_bytes() == content
    (tmp_path / "metrics.jsonl").write_bytes(b"x\n")
    drop_metrics_after(tmp_path, 3)
    assert len(list(tmp_path.glob("metrics.jsonl.damaged*"))) == 1 + (wrong is not None)
