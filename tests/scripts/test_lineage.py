"""The command of the lineage, end to end on a few coloured images: killed, resumed, complete."""

import json
from pathlib import Path

import pytest

from fcmae.run.files import write_json
from finetune.lineage import runs
from finetune.lineage.config import LineageConfig
from finetune.lineage.systems import SYSTEMS
from scripts.lineage import main
from tests.support.programs import kill, start, wait_for
from tests.support.shards import write_colours


def words(folder: Path, out: str, *more: str) -> list[str]:
    """The command line on small shards in a folder."""
    (folder / "classes.json").write_text('["red", "green", "blue"]')
    data = (
        "--train",
        write_colours(folder, "train", 24),
        "--test",
        write_colours(folder, "test", 9),
    )
    short = ("--seeds", "1", "--epochs", "2", "--batch_size", "8", "--pretrain_steps", "2")
    small = ("--sizes", "64", "--timed_runs", "0", "--workers", "0")
    return [*data, *short, *small, "--out", str(folder / out), *more]


@pytest.mark.slow
def test_a_killed_line_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    systems = ("--systems", "lenet5", "convnextv2")
    killed = start("scripts/lineage.py", *words(tmp_path, "killed", *systems))
    wait_for((tmp_path / "killed/lenet5/scratch-rate0.002.json").is_file, killed)
    kill(killed)
    main(words(tmp_path, "killed", *systems))
    main(words(tmp_path, "whole", "--systems", "lenet5"))
    for result in ("scratch-rate0.016", "scratch-seed0"):
        one, other = (
            json.loads((tmp_path / out / "lenet5" / f"{result}.json").read_text())
            for out in ("killed", "whole")
        )
        assert one == other
    left = {path.name for path in (tmp_path / "killed/lenet5/scratch-seed0").iterdir()}
    assert {"config.yaml", "metrics.jsonl"} <= left
    assert "weights.safetensors" not in left
    assert not any(name.startswith("step_") for name in left)
    numbers = json.loads((tmp_path / "killed/lineage.json").read_text())
    assert set(numbers) == {"lenet5", "convnextv2"}
    assert {"scratch", "pretrained"} <= numbers["convnextv2"].keys()
    assert (tmp_path / "killed/lineage.png").read_bytes().startswith(b"\x89PNG")
    assert "ConvNeXt V2: " in (tmp_path / "killed/report.html").read_text()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed").rglob("*-seed*.json")}
    main(words(tmp_path, "killed", *systems))
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_a_system_that_fails_is_named_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LeNet-5 was measured and trained before; AlexNet cannot read what there is."""
    missing = str(tmp_path / "missing-{000000..000001}.tar")
    command = words(tmp_path, "out", "--systems", "lenet5", "alexnet")
    command[1] = missing
    for key in ("lenet5", "alexnet"):
        asked = {"sizes": [64], "timed_runs": 0}
        growth = [{"size": 64, "what": "whole", "gflops": 1.0, "ms": None}]
        costs = {"asked": asked, "parameters": 1, "flops": 1, "trained_per_s": None}
        write_json(tmp_path / f"out/{key}/costs.json", {**costs, "growth": growth})
    folder = tmp_path / "out/lenet5"
    for name in ("rate0.002", "rate0.016", "seed0"):
        write_json(folder / f"scratch-{name}.json", {"accuracy": 0.5})
    write_json(folder / "seconds.json", {"scratch-seed0": 1})
    with pytest.raises(ValueError, match=r"1 failed, the others are written: AlexNet, scratch: .*"):
        main(command)
    told = capsys.readouterr().out
    assert "failed: AlexNet, scratch" in told
    assert "not in the table, since they have not been run: zfnet, vgg16" in told
    assert "0.500 ± 0.000" in told


def test_without_a_checkout_data_have_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs.demo, "TEST", str(tmp_path / "test-000000.tar.gz"))
    begun = runs.Start(
        config=LineageConfig(out=tmp_path), system=SYSTEMS["lenet5"], origin="scratch"
    )
    with pytest.raises(FileNotFoundError, match="come with a checkout; give --train and --test"):
        runs.training_flags(begun, tmp_path / "x.json", rate=1e-3, seed=0, report_on="test")
