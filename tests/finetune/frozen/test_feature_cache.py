"""Features that were kept: read back as they were, or made again with a line."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from finetune.frozen.feature_cache import keep, read_kept
from finetune.frozen.features import labelled_features
from tests.finetune.test_probe import probe_config
from tests.support.limits import files_end_at

KEPT = {
    "x": torch.randn(40, 8),
    "y": torch.arange(40),
    "whole": torch.ones(40, dtype=torch.bool),
}


def test_what_was_kept_is_read_back(tmp_path: Path) -> None:
    said = list[str]()
    assert read_kept(tmp_path / "kept", said.append) is None
    keep(tmp_path / "kept", KEPT, said.append)
    found = read_kept(tmp_path / "kept", said.append)
    assert found is not None
    assert found.keys() == KEPT.keys()
    assert all(torch.equal(found[name], KEPT[name]) for name in KEPT)
    assert not said
    keep(tmp_path / "again", KEPT, said.append)
    assert read_kept(tmp_path / "again", said.append) is not None


def test_no_flipped_bit_passes(tmp_path: Path) -> None:
    file, said, generator = tmp_path / "kept", list[str](), random.Random(0)
    keep(file, KEPT, said.append)
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    in_header = [*range(8 * (8 + size))][::3]
    for bit in in_header + generator.sample(range(8 * (8 + size), 8 * len(content)), 200):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        found = read_kept(file, said.append)
        # blanks that fill up the header mean nothing
        assert found is None or all(torch.equal(found[name], KEPT[name]) for name in KEPT)
        assert found is None or bit // 8 < 8 + size


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def of_another(file: Path) -> None:
    shutil.copy(next(path for path in file.parent.iterdir() if path != file), file)


def of_another_kind(file: Path) -> None:
    save_file({"weight": torch.zeros(3)}, file)


def as_a_directory(file: Path) -> None:
    file.unlink()
    (file / "inner").mkdir(parents=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        cut,
        of_another,
        of_another_kind,
        as_a_directory,
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"\xff" * 1000),
        lambda file: file.write_text('{"x": 1}'),
    ],
)
def test_damaged_features_are_made_again_with_a_line(
    damage: Callable[[Path], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = probe_config(tmp_path, cache=tmp_path / "cache")
    whole, _, _ = labelled_features(config, Accelerator(cpu=True))
    files = sorted((tmp_path / "cache").iterdir())
    sound = files[0].read_bytes(), files[1].read_bytes()
    damage(files[0])
    capsys.readouterr()
    found, _, _ = labelled_features(config, Accelerator(cpu=True))
    assert torch.equal(found.x, whole.x)
    assert torch.equal(found.y, whole.y)
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith(f"{files[0]} is damaged, or of an earlier version (")
    assert line.endswith("): the features are made again")
    if files[0].is_file():
        assert (files[0].read_bytes(), files[1].read_bytes()) == sound


def test_a_full_disk_costs_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = probe_config(tmp_path, cache=tmp_path / "cache")
    with files_end_at(100):
        labelled_features(config, Accelerator(cpu=True))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all("cannot be written: File too large;" in line for line in lines)
    assert all(line.endswith("; the features are not kept") for line in lines)
    assert not list((tmp_path / "cache").iterdir())
