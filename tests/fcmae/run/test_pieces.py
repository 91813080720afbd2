"""Work in pieces: its seconds are added up, what fails is passed over, a signal ends it cleanly."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fcmae.run.pieces import adding_seconds, attempt, ending_on_signals, processor_seconds, strip


def test_seconds_are_added_over_calls_also_over_one_that_is_stopped(tmp_path: Path) -> None:
    clock: Iterator[float] = iter([1.0, 3.0, 10.0, 14.5])
    with adding_seconds(tmp_path / "seconds.json", "a", clock.__next__):
        pass
    with (
        pytest.raises(SystemExit),
        adding_seconds(tmp_path / "seconds.json", "a", clock.__next__),
    ):
        raise SystemExit(75)
    assert json.loads((tmp_path / "seconds.json").read_text()) == {"a": 6.5}


def test_processors_are_counted_and_not_the_time_that_passes() -> None:
    before = processor_seconds()
    while processor_seconds() < before + 0.05:
        sum(range(1000))
    assert processor_seconds() - before < 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_body_with_its_status_and_then_means_what_it_did(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end, ending_on_signals():
        os.kill(os.getpid(), number)
    assert end.value.code == 75
    assert signal.getsignal(number) is before
    assert f"{number.name}: stopped; the same command goes on" in capsys.readouterr().err


def test_what_fails_is_named_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    failed = list[str]()

    def fail() -> None:
        raise ValueError("no luck")

    attempt("one", fail, failed)
    attempt("two", lambda: None, failed)
    assert failed == ["one: no luck"]
    assert "failed: one: no luck" in capsys.readouterr().out


def test_records_stay_where_checkpoints_and_weights_go(tmp_path: Path) -> None:
    for name in ("a/step_0000001/model.safetensors", "a/weights.safetensors", "a/metrics.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    strip(tmp_path)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["metrics.jsonl"]
