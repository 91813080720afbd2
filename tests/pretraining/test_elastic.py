"""The same run on any number of processes, as replicas or shards, and in any precision."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fcmae import FCMAE, draw_visible
from fcmae.run import checkpoint
from fcmae.run.metrics import read_metrics
from fcmae.weights.conversion import convert
from fcmae.weights.timm_models import load_timm
from tests.support.programs import run as started
from tests.support.runs import (
    UNSEEN,
    assert_close,
    assert_same_bits,
    command,
    losses,
    newest,
    pretrain,
)

FSDP = {"ACCELERATE_USE_FSDP": "true"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "alone"
    assert pretrain(run, "--optim.ema", "0.9").returncode == 0
    return run


@pytest.mark.dist
@pytest.mark.slow
def test_one_two_and_four_processes_take_the_same_fifty_steps(tmp_path: Path) -> None:
    flags = ("--optim.steps", "50", "--run.save_every", "50", "--run.picture_every", "0")
    runs = []
    for world in (1, 2, 4):
        run = tmp_path / str(world)
        done = pretrain(run, *flags, world=world)
        assert done.returncode == 0, done.stderr
        (began,) = json.loads((run / "environment.json").read_text())
        assert began["world_size"] == world
        runs.append(run)
    for run in runs[1:]:
        assert_close(run, runs[0], rtol=1e-3)
        ours, theirs = (load_file(newest(r) / checkpoint.MODEL) for r in (run, runs[0]))
        began = FCMAE(
            image_size=32, stem_stride=1, decoder_dim=32, generator=torch.Generator().manual_seed(0)
        ).state_dict()
        way = torch.cat([(theirs[k] - began[k]).flatten() for k in theirs])
        apart = torch.cat([(theirs[k] - ours[k]).flatten() for k in theirs])
        assert apart.norm() < 0.05 * way.norm()  # of the way that training went


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--optim.accumulate", "2")])
def test_shards_of_the_parameters_train_as_one_process_does(
    flags: tuple[str, ...], alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = pretrain(run, "--optim.ema", "0.9", *flags, world=2, env=FSDP)
    assert done.returncode == 0, done.stderr
    (began,) = json.loads((run / "environment.json").read_text())
    assert began["fsdp"]
    assert_close(run, alone, rtol=1e-4)
    ours, theirs = (load_file(newest(r) / checkpoint.EMA) for r in (run, alone))
    assert ours.keys() == theirs.keys()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)  # an AdamW step is 5e-4


@pytest.mark.dist
@pytest.mark.slow
def test_shards_go_on_from_one_process_and_one_process_from_shards(
    alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for steps, world, env in (("2", 1, {}), ("4", 2, FSDP), ("6", 1, {})):
        flags = ("--optim.ema", "0.9", "--optim.steps", steps)
        done = pretrain(run, *flags, world=world, env=env)
        assert done.returncode == 0, done.stderr
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4, 5, 6]
    starts = json.loads((run / "environment.json").read_text())
    assert [start["fsdp"] for start in starts] == [False, True, False]
    files = {path.name for path in newest(run).iterdir()}
    assert files == {path.name for path in newest(alone).iterdir()}


@pytest.mark.slow
def test_the_average_converts_as_the_weights_do(alone: Path, tmp_path: Path) -> None:
    averages = load_file(newest(alone) / checkpoint.EMA)
    convert(newest(alone) / checkpoint.EMA, tmp_path / "ema.safetensors", to="timm")
    convert(alone, tmp_path / "last.safetensors", to="timm")
    found, last = (load_timm(tmp_path / f"{name}.safetensors")[0] for name in ("ema", "last"))
    ours, other = found.state_dict()["stem.0.weight"], last.state_dict()["stem.0.weight"]
    assert torch.equal(ours, averages["encoder.stem.0.weight"])
    assert not torch.equal(ours, other)


def test_two_runs_of_one_process_are_the_same_to_the_last_bit(alone: Path, tmp_path: Path) -> None:
    assert pretrain(tmp_path / "again", "--optim.ema", "0.9", *UNSEEN).returncode == 0
    assert_same_bits(tmp_path / "again", alone)


def test_recomputing_stages_changes_no_bit(alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = pretrain(run, "--optim.ema", "0.9", "--run.recompute", "0", "1", "2", "3", *UNSEEN)
    assert done.returncode == 0, done.stderr
    assert_same_bits(run, alone)


def saved_bytes(model: FCMAE) -> int:
    """Of the activations that a forward pass keeps."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = torch.randn(1, 3, 32, 32)
    visible = draw_visible(1, model.n, model.ratio, generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images, visible)[0]
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(size for at, size in kept.items() if at not in parameters)


def test_recomputing_a_stage_keeps_less(tmp_path: Path) -> None:
    model = FCMAE(image_size=32, stem_stride=1, decoder_dim=32)
    found = []
    for stage in (None, 0, 1):
        if stage is not None:
            model.encoder.stages[stage].recompute = True  # type: ignore[assignment]
        found.append(saved_bytes(model))
    assert found[0] > 1.3 * found[1] > 1.3 * found[2]


LONG = ("--optim.steps", "200", "--run.log_every", "20", "--run.save_every", "100")
LONG += ("--run.picture_every", "0", "--optim.batch_size", "4", "--watch.images", "0")


@pytest.fixture(scope="module")
def in_full_precision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred steps in full precision."""
    run = tmp_path_factory.mktemp("runs") / "fp32"
    done = pretrain(run, *LONG)
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_two_hundred_steps_in_half_precision_stay_finite_and_near(
    precision: str, in_full_precision: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = pretrain(run, *LONG, "--precision", precision)
    assert done.returncode == 0, done.stderr
    half, full = dict(losses(run)), dict(losses(in_full_precision))
    assert half.keys() == full.keys()
    assert all(abs(half[step] - full[step]) < 0.05 * full[step] for step in full)
    weights = load_file(newest(run) / checkpoint.MODEL)
    assert all(w.dtype == torch.float32 and w.isfinite().all() for w in weights.values())
    scales = [line.get("loss_scale", 0) for line in read_metrics(run)]
    assert all(scale >= 1024 if precision == "fp16" else scale == 0 for scale in scales)


@pytest.mark.slow
def test_fp16_resumes_with_its_loss_scale(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ("--precision", "fp16")
    assert pretrain(run, *flags, "--optim.steps", "4").returncode == 0
    state = json.loads((newest(run) / checkpoint.STATE).read_text())
    assert state["scaler"]["scale"] == 65536.0
    assert state["scaler"]["_growth_tracker"] == 4
    assert pretrain(run, *flags, "--optim.steps", "6").returncode == 0
    state = json.loads((newest(run) / checkpoint.STATE).read_text())
    assert state["scaler"]["_growth_tracker"] == 6


COUNTING = """
import sys
from torch._dynamo.utils import counters
import pretrain
from fcmae.run.learner import Learner
def compiling(*args, before=Learner.compile, **options):
    before(*args, **options)
    print("graphs before the first step:", counters["stats"]["unique_graphs"])
Learner.compile = compiling
pretrain.main(sys.argv[1:])
print("graphs in all:", counters["stats"]["unique_graphs"])
"""


@pytest.mark.slow
def test_a_compiled_model_takes_the_same_steps(alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ("--optim.ema", "0.9", "--compile", "True", "--watch.collapse_every", "2")
    flags += ("--run.compile_cache", str(tmp_path / "code"))
    done = started("-c", COUNTING, *command(run, *flags)[1:])
    assert done.returncode == 0, done.stderr
    # one for each width of a block, encoder and decoder (blocks of a stage share theirs), and for
    # the stem, three downsamplings and the loss; and none in the run's middle
    assert "graphs before the first step: 10\n" in done.stdout
    assert "graphs in all: 10\n" in done.stdout
    assert "compiling (1 to 2 minutes the first time): done in" in done.stderr
    assert ", in fp32, compiled\n" in done.stdout
    assert (tmp_path / "code").is_dir()
    assert_close(run, alone, rtol=1e-4)
    assert [line["step"] for line in read_metrics(run) if "collapse" in line] == [2, 4, 6]
    first = "watched/step_0000000.safetensors"
    seen, expected = load_file(run / first), load_file(alone / first)
    assert seen.keys() == expected.keys()
    for name, tensor in seen.items():
        torch.testing.assert_close(tensor, expected[name])


@pytest.mark.slow
def test_a_model_that_cannot_be_compiled_takes_eager_steps(alone: Path, tmp_path: Path) -> None:
    flags = ("--optim.ema", "0.9", "--compile", "True", "--run.compile_cache", str(tmp_path / "no"))
    done = pretrain(tmp_path / "run", *flags, env={"PATH": "/nowhere"})  # with no C++
    assert done.returncode == 0, done.stderr
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("not compiled")]
    assert told.startswith(
        "not compiled, so that it runs as it is written, and slower (InductorError: "
    )
    assert ", in fp32\n" in done.stdout
    assert_same_bits(tmp_path / "run", alone)


def test_runs_under_deterministic_operations_keep_their_bits(alone: Path, tmp_path: Path) -> None:
    done = pretrain(tmp_path / "run", "--optim.ema", "0.9", "--deterministic", "False", *UNSEEN)
    assert done.returncode == 0, done.stderr
    assert_same_bits(tmp_path / "run", alone)


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--precision", "fp16"), ("--compile", "True")])
def test_what_does_not_go_with_shards_is_refused(flags: tuple[str, ...], tmp_path: Path) -> None:
    done = pretrain(tmp_path / "run", *flags, world=2, env=FSDP)
    assert done.returncode == 1
    assert "error: FSDP2 goes with neither precision=fp16 (take bf16)" in done.stderr
