"""Few labels: what is drawn, the table of a small run, and going on with it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from fcmae.run.config import parse
from fcmae.weights.timm_models import save_timm
from finetune.few_shot import main
from finetune.models.backbone import backbone
from finetune.train import main as train
from finetune.training.config import FewShotConfig
from finetune.training.few_labels import draw
from tests.support.generators import generator
from tests.support.models import TINY, TINY_FLAGS
from tests.support.programs import run
from tests.support.shards import write_colours

LABELS = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
NAMES = ("sun", "moon", "star")
CELLS = {
    f"{size}-seed{seed}-random-{method}.json"
    for size in ("20pc", "1_per_class")
    for seed in (0, 1)
    for method in ("probe", "finetune")
}


@pytest.mark.parametrize(
    ("size", "expected"), [(0.1, [6, 3, 1]), (0.01, [1, 1, 1]), (4, [4, 4, 4]), (1.0, [60, 30, 10])]
)
def test_shares_and_numbers_are_of_each_class(size: float | int, expected: list[int]) -> None:
    chosen = draw(LABELS, NAMES, size, generator())
    assert len(chosen.unique()) == len(chosen)
    assert LABELS[chosen].bincount().tolist() == expected


def test_what_is_drawn_is_a_function_of_the_seed() -> None:
    a, b, c = (draw(LABELS, NAMES, 0.1, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_few_labels_are_augmented_as_by_their_recipe() -> None:
    needed = ["--data.train", "a.tar", "--out", "a.json"]
    plain, small = (
        parse(FewShotConfig, [*recipe, *needed], description="")
        for recipe in ([], ["finetune/small"])
    )
    assert plain.augment == small.augment
    assert plain.augment.scale == (0.4, 1.0)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (11, r"per_class has 11, but class star has 10 training samples: give fewer, or shares"),
        (0, r"per_class has 0, but class sun has 60"),
        (1.5, r"fractions has 1\.5, which must lie in \(0, 1\]"),
    ],
)
def test_what_cannot_be_drawn_is_refused(size: float | int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(LABELS, NAMES, size, generator())


def save(path: Path) -> dict[str, torch.Tensor]:
    """Write weights, and return them."""
    model, metadata = backbone("none", TINY)
    save_timm(path, model.state_dict(), metadata)
    return model.state_dict()


def few_shot(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    data = ("--data.train", str(folder / "train-000000.tar"), "--data.workers", "0")
    data += ("--data.test", str(folder / "test-000000.tar"), "--out", str(folder / "out.json"))
    short = ("--optim.steps", "2", "--optim.batch_size", "4", "--seeds", "2")
    short += ("--fractions", "0.2", "--per_class", "1", *TINY_FLAGS)
    return run("-m", "finetune.few_shot", *data, *short, *flags)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("few")
    for name, n in (("train", 30), ("test", 12)):
        write_colours(folder, name, n)
    finished = few_shot(folder)
    assert finished.returncode == 0, finished.stderr
    return folder, finished.stdout


def test_every_size_seed_and_method_is_run_and_summed_up(done: tuple[Path, str]) -> None:
    folder, told = done
    assert {path.name for path in (folder / "out").glob("*.json")} == CELLS
    found = json.loads((folder / "out.json").read_text())
    assert found["samples"] == {"20%": 6, "1 per class": 3}
    assert found["results"].keys() == found["samples"].keys()
    for row in found["results"].values():
        assert row.keys() == {"random probe", "random finetune"}
        assert all(len(column["values"]) == 2 for column in row.values())
    assert "accuracy, 2 seeds" in told
    assert "\nrun 3 of 8: random probe, 3 labels (1 per class), seed 0\n" in told
    assert told.endswith(f"{folder}/out.png, and each run in {folder}/out/\n")
    assert (folder / "out.png").stat().st_size > 5000


def test_a_restart_runs_what_is_missing_or_damaged_alone(done: tuple[Path, str]) -> None:
    folder, _ = done
    files = (folder / "out").rglob("*")
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files if path.is_file()
    }
    table = (folder / "out.json").read_bytes()
    missing = folder / "out" / "20pc-seed0-random-probe.json"
    missing.unlink()
    changed = missing.with_name("20pc-seed1-random-probe.json")
    kept = json.loads(changed.read_text())
    kept["measured"]["accuracy"] += 0.125
    changed.write_text(json.dumps(kept))
    cut = missing.with_name("1_per_class-seed1-random-probe.json")
    cut.write_bytes(cut.read_bytes()[:-9])
    again = few_shot(folder)
    assert again.returncode == 0, again.stderr
    differs = f"{changed} is damaged (it differs from its SHA-256): the run is made again\n"
    assert differs in again.stdout
    assert f"{cut} is damaged (" in again.stdout
    assert "steps of 4" not in again.stdout  # nothing was fine-tuned
    for made in (missing, changed, cut):
        content, _ = before.pop(made)
        assert made.read_bytes() == content
    assert (folder / "out.json").read_bytes() == table
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before}
    assert after == before  # nothing was written again


def test_results_and_runs_of_before_weights_told_how_images_were_read_are_gone_on_with(
    done: tuple[Path, str],
) -> None:
    folder, _ = done
    table = (folder / "out.json").read_bytes()

    def as_before(config: dict[str, Any]) -> dict[str, Any]:
        """The config as it was written when `data.pixels` was uint8 by default."""
        assert config["data"]["pixels"] == "uint8"
        for name in ("range", "nodata", "background", "fit", "image"):
            del config["data"][name]
        del config["random"]["like"], config["run"]["save_minutes"]
        return config

    for file in (folder / "out").glob("*.json"):
        kept = json.loads(file.read_text())
        file.write_text(json.dumps(kept | {"config": as_before(kept["config"])}))
    run = folder / "out" / "20pc-seed0-random-finetune"
    written = as_before(yaml.safe_load((run / "config.yaml").read_text()))
    (run / "config.yaml").write_text(yaml.safe_dump(written))
    run.with_suffix(".json").unlink()
    again = few_shot(folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("\nrun ") + again.stdout.startswith("run ") == 1
    assert f"{run} is complete at step 2 of 2" in again.stdout
    assert (folder / "out.json").read_bytes() == table


@pytest.mark.slow
def test_results_of_another_config_are_not_taken_for_these(done: tuple[Path, str]) -> None:
    again = few_shot(done[0], "--probe_lr", "0.5")
    assert again.returncode == 1
    assert "was made with another config (probe_lr: 0.01 -> 0.5); choose another" in again.stderr


@pytest.mark.slow
def test_results_of_other_shards_are_not_taken_for_these(done: tuple[Path, str]) -> None:
    folder, _ = done
    kept = {name: (folder / name).read_bytes() for name in ("test-000000.tar", "index.json")}
    (folder / "test-000000.tar").unlink()
    write_colours(folder, "test", 9)
    again = few_shot(folder)
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    assert again.returncode == 1
    assert "was made of shards with another content; restore them, or choose" in again.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--metric", "f1"),
            "metric=f1 is none of accuracy, balanced_accuracy, macro_f1, auc, cal",
        ),
        (("--per_class", "1", "11"), "per_class has 11, but class 0 has 10 training samples: give"),
    ],
)
def test_what_no_run_can_do_is_refused_before_the_first(
    done: tuple[Path, str], tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    data = [
        flag for n in ("train", "test") for flag in (f"--data.{n}", f"{done[0]}/{n}-000000.tar")
    ]
    out = ("--out", str(tmp_path / "out.json"), "--data.workers", "0")
    with pytest.raises(ValueError, match=message):
        main([*data, *out, *TINY_FLAGS, *flags])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_probe_is_of_the_backbone_that_is_fine_tuned(tmp_path: Path) -> None:
    for name, n in (("train", 30), ("test", 12)):
        write_colours(tmp_path, name, n)
    timm = ("--backbone", "timm:resnet18", "--random.image_size", "32", "--methods", "probe")
    finished = few_shot(tmp_path, *timm, "--seeds", "1")
    assert finished.returncode == 0, finished.stderr
    (row, _) = json.loads((tmp_path / "out.json").read_text())["results"].values()
    (column,) = row
    assert column == "timm_resnet18 probe"
    assert row[column]["values"][0] > 1 / 3  # three colours


@pytest.mark.parametrize("classifier", ["ridge", "nearest"])
def test_a_probe_in_closed_form_of_one_start_alone(
    done: tuple[Path, str], tmp_path: Path, classifier: str
) -> None:
    folder, _ = done
    save(tmp_path / "w.safetensors")
    flags = ("--methods", "probe", "--starts", "pretrained", "--probe_classifier", classifier)
    flags += ("--probe_features", "standardised", "--weights", str(tmp_path / "w.safetensors"))
    data = ("--data.train", str(folder / "train-000000.tar"), "--data.workers", "0")
    data += ("--data.test", str(folder / "test-000000.tar"), "--seeds", "2", "--fractions", "0.5")
    main([*data, *flags, "--out", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())["results"]["50%"]
    assert found.keys() == {"pretrained probe"}
    assert found["pretrained probe"]["mean"] > 0.5  # colours, of which one in three is a guess


def test_the_head_alone_learns_in_frozen_steps(done: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = done
    before = save(tmp_path / "w.safetensors")
    data = ("--data.train", str(folder / "train-000000.tar"), "--data.workers", "0")
    data += ("--data.test", str(folder / "test-000000.tar"), "--out", str(tmp_path / "out.json"))
    flags = ("--optim.steps", "3", "--optim.batch_size", "4", "--optim.frozen_steps", "2")
    flags += ("--run.save_every", "1", "--weights", str(tmp_path / "w.safetensors"))
    train([*data, *flags])
    for step, frozen in ((2, True), (3, False)):
        after = load_file(tmp_path / f"out/step_{step:07d}/model.safetensors")
        stem, head = "stem.0.weight", "head.fc.weight"
        assert torch.equal(after[stem], before[stem]) == frozen
        assert after[head].abs().max() > 0
    assert not torch.equal(
        after[head], load_file(tmp_path / "out/step_0000002/model.safetensors")[head]
    )
