"""pretrain.py as a process: learns, resumes exactly, agrees over ranks, and fails in one line."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml
from safetensors.torch import load_file

from data.making.indexing import moments_of
from data.shards.index import write_index
from data.shards.writing import write_shards
from fcmae import FCMAE
from fcmae.run import checkpoint
from fcmae.run.config import parse
from fcmae.run.fields import field_names
from fcmae.run.learner import parameter_groups
from fcmae.run.metrics import read_metrics
from fcmae.run.optim import OptimConfig, lr_at, total_steps, warmup_steps
from fcmae.weights.conversion import convert
from finetune.training.pretraining import PretrainConfig
from tests.support.images import png
from tests.support.programs import lines_of, run
from tests.support.runs import UNSEEN, newest, pretrain


def assert_same_step(run: Path, other: Path) -> None:
    """Equal first losses, and equal gradients as AdamW's moments hold them after two steps.

    The sums are in another order. AdamW divides gradients by their size, so that neither the loss
    nor the weights would show a gradient that is too large.
    """
    assert read_metrics(run)[0]["loss"] == pytest.approx(read_metrics(other)[0]["loss"], rel=1e-5)
    a, b = (load_file(r / "step_0000002" / checkpoint.OPTIMIZER) for r in (run, other))
    assert a.keys() == b.keys()
    moments = [key for key in a if key.endswith(":exp_avg")]
    ours, theirs = (torch.cat([t[key].flatten() for key in moments]) for t in (a, b))
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "uninterrupted"
    result = pretrain(run)
    assert result.returncode == 0, result.stderr
    return run


def test_a_run_leaves_config_environment_metrics_pictures_and_checkpoints(finished: Path) -> None:
    lines = read_metrics(finished)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["samples_seen"] for line in lines] == [8, 16, 24, 32, 40, 48]
    keys = {"step", "samples_seen", "loss", "lr", "grad_norm", "images_per_s", "data_wait"}
    keys |= {"memory_gb", "bad_samples"}
    assert lines[0].keys() == keys
    assert [p.name for p in sorted((finished / "pictures").iterdir())] == [
        "step_0000003.png",
        "step_0000006.png",
    ]
    names = {"config.yaml", "data.json", "environment.json", "metrics.jsonl", "pictures", "watched"}
    steps = {f"step_000000{i}" for i in (2, 4, 6)}
    assert {p.name for p in finished.iterdir()} == names | steps
    (start,) = json.loads((finished / "environment.json").read_text())
    assert start["world_size"] == 1
    assert yaml.safe_load((finished / "config.yaml").read_text())["optim"]["batch_size"] == 8


def test_a_finished_run_says_so(finished: Path) -> None:
    result = pretrain(finished)
    assert result.returncode == 0
    assert "is complete at step 6 of 6" in result.stdout


def test_shards_that_were_replaced_between_two_starts_end_the_run(
    finished: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree("data/demo", tmp_path / "moved")
    train = f"{moved}/train-{{000000..000003}}.tar.gz"
    result = pretrain(finished, "--data.train", train)
    assert "is complete at step 6 of 6" in result.stdout, result.stderr
    samples = ({"__key__": f"s{i}", "png": png(i)} for i in range(8))
    (other,) = write_shards(samples, tmp_path / "other", "train", 8, compress=True)
    shutil.copy(other.url, moved / "train-000001.tar.gz")
    write_index([replace(other, url=str(moved / "train-000001.tar.gz"))])
    result = pretrain(finished, "--data.train", train)
    assert result.returncode == 1
    (line,) = lines_of(result.stderr)
    assert "has trained on other data: changed train-000001.tar.gz (" in line
    assert "-> 8 samples); restore these shards, or start another --run.dir" in line


@pytest.mark.slow
def test_a_run_starts_from_encoder_weights_with_a_fresh_decoder(
    finished: Path, tmp_path: Path
) -> None:
    weights, run = tmp_path / "weights.pt", tmp_path / "run"
    convert(finished, weights, to="official")
    flags = ("--init.weights", str(weights), "--optim.base_lr", "0", "--run.save_every", "1")
    flags = (*flags, "--optim.steps", "2", "--seed", "3")
    result = pretrain(run, *flags)
    assert result.returncode == 0, result.stderr
    assert f"encoder from {weights} (convnextv2_atto with stem_stride=1" in result.stdout
    assert yaml.safe_load((run / "config.yaml").read_text())["init"]["weights"] == str(weights)

    # a learning rate of zero: what is saved is what the run began with
    began, source = (
        load_file(r / checkpoint.MODEL) for r in (run / "step_0000001", newest(finished))
    )
    config = parse(PretrainConfig, [str(run / "config.yaml")], description="test")
    fresh = FCMAE.from_config(config.model, generator=torch.Generator().manual_seed(3)).state_dict()
    assert began.keys() == source.keys() == fresh.keys()
    for key, tensor in began.items():
        assert torch.equal(tensor, (source if key.startswith("encoder.") else fresh)[key]), key

    lines = read_metrics(run)
    shutil.rmtree(run / "step_0000002")
    weights.unlink()
    result = pretrain(run, *flags)
    assert result.returncode == 0, result.stderr
    assert f"init.weights={weights} is ignored: {run} resumes" in result.stdout
    assert f"resuming from {run}/step_0000001" in result.stdout
    assert [line["loss"] for line in read_metrics(run)] == [line["loss"] for line in lines]


@pytest.mark.slow
def test_a_run_starts_from_all_of_another(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ("--init.weights", str(finished), "--init.decoder", "True", "--seed", "1")
    done = pretrain(run, *flags, "--optim.base_lr", "0", "--optim.steps", "1")
    assert done.returncode == 0, done.stderr
    assert f"decoder from {newest(finished)}" in done.stdout
    began, source = (load_file(newest(r) / checkpoint.MODEL) for r in (run, finished))
    assert began.keys() == source.keys()
    assert all(torch.equal(began[key], source[key]) for key in source)


def test_weights_of_another_model_end_before_the_first_step(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = pretrain(run, "--init.weights", str(finished), "--model.name", "convnextv2_femto")
    assert result.returncode == 1
    (line,) = lines_of(result.stderr)
    assert line.startswith(f"error: init.weights={finished} is convnextv2_atto with stem_stride=1")
    assert "but the run trains convnextv2_femto with stem_stride=1 and in_chans=3" in line
    assert not run.exists()


def test_accumulation_changes_memory_not_the_step(finished: Path, tmp_path: Path) -> None:
    assert pretrain(tmp_path / "run", "--optim.accumulate", "4", *UNSEEN).returncode == 0
    assert_same_step(tmp_path / "run", finished)


@pytest.mark.dist
def test_two_processes_see_what_one_sees(finished: Path, tmp_path: Path) -> None:
    result = pretrain(tmp_path / "run", *UNSEEN, world=2)
    assert result.returncode == 0, result.stderr
    (start,) = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert start["world_size"] == 2
    assert_same_step(tmp_path / "run", finished)


def test_bf16_trains(tmp_path: Path) -> None:
    result = pretrain(tmp_path / "run", "--precision", "bf16", "--optim.steps", "2", *UNSEEN)
    assert result.returncode == 0, result.stderr
    weights = load_file(tmp_path / "run" / "step_0000002" / checkpoint.MODEL)
    assert all(w.dtype == torch.float32 and w.isfinite().all() for w in weights.values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data.train", "nowhere/a.tar"), "shard nowhere/a.tar does not exist"),
        (("--model.image_size", "36"), "image_size=36 must be a multiple of patch_size=8; try 32"),
        (("--run.dir", "/proc/nowhere/run"), "/proc/nowhere"),
        (("--optim.base_lr", "1e30"), "the loss is not finite at step"),
        (("--optim.batch_size", "0"), "optim.batch_size=0 must be at least 1"),
        (("--run.keep", "0"), "run.keep=0 must be at least 1"),
        (("--init.weights", "none.pt"), "none.pt holds no checkpoint; give a run"),
    ],
)
def test_what_a_user_can_cause_ends_in_one_line(
    tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    result = pretrain(tmp_path / "run", *flags)
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in result.stderr


def test_another_config_in_the_run_directory_is_refused_with_its_differences(
    finished: Path,
) -> None:
    result = pretrain(finished, "--optim.base_lr", "0.5")
    assert result.returncode == 1
    assert "holds a run with another config (optim.base_lr: " in result.stderr


def test_a_misspelt_key_in_a_recipe_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "typo.yaml"
    recipe.write_text("optim:\n  base_lrr: 1.0\n")
    result = run("pretrain.py", recipe)
    assert result.returncode == 1
    assert "no field is called optim.base_lrr; did you mean optim.base_lr?" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_documents_every_flag() -> None:
    result = run("pretrain.py", "--help")
    assert result.returncode == 0
    for name in field_names(PretrainConfig):
        assert f"--{name} " in result.stdout


def test_learning_rate_warms_up_linearly_and_falls_as_a_cosine() -> None:
    def lr(step: int) -> float:
        return lr_at(step, total=110, warmup=10, base_lr=1.5e-4, batch_size=4096, min_lr=1e-6)

    peak = 1.5e-4 * 16
    assert lr(0) == pytest.approx(peak / 10)
    assert lr(9) == lr(10) == pytest.approx(peak)
    assert lr(60) == pytest.approx((peak + 1e-6) / 2)
    assert lr(109) == pytest.approx(1e-6, abs=1e-6)
    assert all(lr(i + 1) <= lr(i) for i in range(10, 109))


def test_steps_follow_from_epochs() -> None:
    assert total_steps(OptimConfig(epochs=3.0, batch_size=10), 25) == 7
    assert total_steps(OptimConfig(steps=5), 25) == 5
    assert warmup_steps(OptimConfig(warmup_epochs=2.0, batch_size=10), 25) == 5
    assert warmup_steps(OptimConfig(steps=40, batch_size=10), 25) == 4
    assert warmup_steps(OptimConfig(epochs=20.0, batch_size=10), 25) == 5  # for 40, of 50
    assert warmup_steps(OptimConfig(epochs=20.0, warmup_epochs=None, batch_size=10), 25) == 5
    assert warmup_steps(OptimConfig(steps=40, warmup_epochs=None), 25) == 4
    with pytest.raises(ValueError, match="makes no step; raise it"):
        total_steps(OptimConfig(epochs=1.0, batch_size=100), 25)


def test_weight_decay_skips_biases_norms_grn_and_the_token() -> None:
    model = FCMAE(image_size=32, stem_stride=1, decoder_dim=32)
    decayed, free = parameter_groups(model.named_parameters(), 0.05)
    assert decayed["weight_decay"] == 0.05
    assert free["weight_decay"] == 0.0
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(names[id(p)].endswith("weight") for p in decayed["params"])
    undecayed = {names[id(p)] for p in free["params"]}
    assert {
        "decoder.token",
        "encoder.stages.0.blocks.0.mlp.grn.weight",
        "encoder.stem.1.weight",
    } <= (undecayed)


def test_satellite_tiles_train_on_their_own_statistics(tmp_path: Path) -> None:
    tiles = np.random.default_rng(0).integers(0, 20_000, (8, 13, 40, 40)).astype(np.uint16)
    samples = []
    for i, tile in enumerate(tiles):
        file = io.BytesIO()
        tifffile.imwrite(file, tile, photometric="minisblack", planarconfig="separate")
        samples.append({"__key__": f"t{i}", "tif": file.getvalue()})
    (shard,) = write_shards(samples, tmp_path / "tiles", "train", 8)
    write_index([replace(shard, moments=moments_of(shard, None))])
    done = pretrain(
        *(tmp_path / "run", "--data.train", shard.url, "--model.in_chans", "13"),
        *("--data.pixels", "float32", "--data.mean", "--data.std"),
        *UNSEEN,
    )
    assert done.returncode == 0, done.stderr
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]
    scaled = tiles / 65535
    assert written["mean"] == pytest.approx(scaled.mean((0, 2, 3)))
    assert written["std"] == pytest.approx(scaled.std((0, 2, 3)))
