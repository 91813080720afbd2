"""URLs in any text show neither their passwords nor their signatures."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data.config import DataConfig
from fcmae.run.config import completed, differences, parse, to_tree, to_yaml
from fcmae.run.fields import flatten
from fcmae.run.secrets import public
from fcmae.run.terminal import line_of
from finetune.training.pretraining import PretrainConfig, PretrainRun
from tests.support.programs import ROOT


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:p@h/a.tar?sig=1", "http://u:***@h/a.tar"),
        ("https://token@h/x", "https://***@h/x"),
        ("https://u:p@s:s@h:81/x", "https://u:***@h:81/x"),
        ("http://u:it's@h/q?a='b'c", "http://u:***@h/q"),
        ("URL('https://h/a.tar?sig=1%2F2') fails", "URL('https://h/a.tar') fails"),
        ("'https://u:p@h/t-{0..3}.tar?x=y' 'a?b'", "'https://u:***@h/t-{0..3}.tar' 'a?b'"),
        ("--data.train=https://h/a.tar?b", "--data.train=https://h/a.tar"),
        ("hf://datasets/o/n@main/x.tar", "hf://datasets/o/n@main/x.tar"),
        ("s3://bucket/a@b.tar, u@h.de", "s3://bucket/a@b.tar, u@h.de"),
        ("DIR/train-00000?.tar", "DIR/train-00000?.tar"),
        ("https:/u:p@h/a?b is no path", "https:/u:***@h/a is no path"),
    ],
)
def test_secrets_of_urls_are_hidden(text: str, shown: str) -> None:
    assert public(text) == shown
    assert public(shown) == shown


def config(secret: str) -> PretrainConfig:
    url = f"https://me:{secret}@host/train-{{000000..000003}}.tar?sig={secret}"
    return PretrainConfig(data=DataConfig(train=(url,)), run=PretrainRun(dir=Path("runs/a")))


def test_a_config_is_written_without_secrets_and_equals_that_of_a_new_signature() -> None:
    written = to_yaml(config("s3cret"))
    assert "s3cret" not in written
    assert "https://me:***@host/train-{000000..000003}.tar" in written
    old = completed(yaml.safe_load(written), PretrainConfig)
    assert not differences(old, to_tree(config("fresh")))
    with_secret = flatten(to_tree(config(""))) | {"data.train": list(config("s3cret").data.train)}
    assert not differences(completed(with_secret, PretrainConfig), to_tree(config("fresh")))


def test_an_argument_that_is_refused_shows_no_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(PretrainConfig, ["--run.dir", "a", "http://u:p@h/a.tar?sig=1"], description="")
    said = "".join(capsys.readouterr())
    assert "u:***@h/a.tar" in said
    assert "sig" not in said


def test_errors_show_no_secrets() -> None:
    assert (
        line_of(OSError("cannot reach https://u:p@h/x?sig=1")) == "cannot reach https://u:***@h/x"
    )


def test_arguments_of_programs_are_kept_without_secrets() -> None:
    program = (
        "import sys; from fcmae.run.program import run_program;"
        "run_program(lambda given: print(given, sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--a", "http://u:p@h/x?sig=1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert done.stdout == "['--a', 'http://u:p@h/x?sig=1'] ['--a', 'http://u:***@h/x']\n"
