"""Whatever reads a checkpoint compares it with its sums, and takes the newest that is whole."""

import json
from pathlib import Path

import pytest
import torch

from fcmae import FCMAE
from fcmae.run import checkpoint
from fcmae.run.checkpoint import CONFIG, MODEL, OPTIMIZER, STATE, SUMS
from fcmae.run.files import file_sha256
from fcmae.weights.conversion import convert
from fcmae.weights.files import read_weights
from fcmae.weights.loading import load_decoder, load_encoder
from tests.support.models import saved_run, trained

ATTO = {"name": "convnextv2_atto", "stem_stride": 1, "in_chans": 1}
FILES = (MODEL, OPTIMIZER, STATE, CONFIG)


@pytest.fixture(scope="module")
def model() -> FCMAE:
    return trained("convnextv2_atto", 1, 1)


@pytest.fixture
def run(tmp_path: Path, model: FCMAE) -> Path:
    """Two steps with equal weights, which their numbers tell apart."""
    for step in (1, 2):
        saved_run(tmp_path / "run", model, **ATTO, step=step)
    return tmp_path / "run"


def sum_again(step: Path) -> None:
    """Give a step the right sums of what its files hold now."""
    lines = [f"{file_sha256(step / name)}  {name}\n" for name in FILES]
    (step / SUMS).write_text("".join(lines))


def damage(step: Path, file: str, how: str) -> None:
    path = step / file
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "one bit"])
@pytest.mark.parametrize("file", [*FILES, SUMS])
def test_a_damaged_step_is_passed_over_in_a_run_and_refused_by_name(
    file: str, how: str, run: Path, tmp_path: Path
) -> None:
    damage(run / "step_0000002", file, how)
    weights = read_weights(run)
    assert weights.metadata is not None
    assert weights.metadata.step == 1
    (note,) = weights.notes
    assert f"checkpoint {run / 'step_0000002'} is damaged: " in note
    assert file in note
    assert note.endswith("; going back to the one before")
    for source in (run / "step_0000002", run / "step_0000002" / MODEL):
        with pytest.raises(ValueError, match=rf"step_0000002 is damaged: .*{file}"):
            convert(source, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    (run / "step_0000001" / MODEL).write_bytes(b"")
    with pytest.raises(ValueError, match=r"all 2 checkpoints of .*run are damaged: restore one"):
        read_weights(run)


@pytest.mark.parametrize("file", FILES)
def test_sums_have_to_list_each_file(file: str, run: Path) -> None:
    sums = run / "step_0000002" / SUMS
    kept = [line for line in sums.read_text().splitlines(True) if file not in line]
    sums.write_text("".join(kept))
    with pytest.raises(ValueError, match=f"step_0000002 is damaged: {SUMS} does not list {file}"):
        checkpoint.check(run / "step_0000002")
    assert checkpoint.newest_whole(run, lambda _: None) == run / "step_0000001"


def test_an_average_that_the_sums_do_not_list_is_damage(run: Path) -> None:
    step = run / "step_0000002"
    (step / checkpoint.EMA).write_bytes((step / MODEL).read_bytes())
    with pytest.raises(ValueError, match=rf"{SUMS} does not list ema\.safe"):
        read_weights(step / checkpoint.EMA)


def test_a_run_that_starts_from_a_damaged_run_says_so(run: Path, model: FCMAE) -> None:
    damage(run / "step_0000002", MODEL, "one bit")
    began = trained("convnextv2_atto", 1, 1)
    with torch.no_grad():
        for parameter in began.parameters():
            parameter.zero_()
    architecture = read_weights(run).architecture
    told = load_encoder(began.encoder, str(run), architecture)
    assert "step_0000002 is damaged: model.safetensors differs" in told
    assert load_decoder(began.decoder, run) == f"decoder from {run / 'step_0000001'}"
    names = ("stem.0.weight", "norm.weight")
    state, expected = began.state_dict(), model.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected if name in names)
    assert torch.equal(next(began.decoder.parameters()), next(model.decoder.parameters()))
    with pytest.raises(ValueError, match=r"step_0000002 is damaged: model\.safe"):
        load_decoder(began.decoder, run / "step_0000002")


GOOD = {
    "model": {"name": "convnextv2_atto", "image_size": [16, 24], "in_chans": 1, "stem_stride": 1},
    "data": {"mean": [0.5], "std": [0.25]},
}


def without(section: str, field: str) -> str:
    tree = json.loads(json.dumps(GOOD))
    del tree[section][field]
    return json.dumps(tree)


def changed(section: str, **fields: object) -> str:
    return json.dumps(GOOD | {section: GOOD[section] | fields})


@pytest.mark.parametrize(
    "config",
    [
        *("", "- a\n- b\n", "a: [", "null", "\0", "\x1b[31m: 1", "a: &a [*a]", "[" * 5000),
        *(json.dumps(GOOD | {name: kind}) for name in GOOD for kind in (None, 3, "x", [1])),
        *(without("model", name) for name in GOOD["model"]),
        *(without("data", name) for name in GOOD["data"]),
        *(changed("model", name=kind) for kind in (3, None, ["a"], "resnet18")),
        *(changed("model", image_size=kind) for kind in ("16", [16], [16, 24, 32], {}, [-16, 24])),
        *(changed("model", in_chans=kind) for kind in (0, "3", None)),
        *(changed("data", mean=kind) for kind in (None, "grey", [None], [[0.5]], 0.5)),
    ],
)
def test_a_config_of_any_kind_is_damage_in_one_line(config: str, run: Path) -> None:
    step = run / "step_0000002"
    (step / CONFIG).write_text(config)
    sum_again(step)
    with pytest.raises(ValueError, match=f"checkpoint {step} is damaged: .*{CONFIG}"):
        read_weights(step)


@pytest.mark.parametrize(
    "state",
    [
        *("", "null", "3", "[]", "{}", "{}}", "[" * 100_000, '{"step": "2", "samples_seen": 16}'),
        *(
            '{"step": true, "samples_seen": 1}',
            '{"step": -1, "samples_seen": 1}',
            '{"step": 2, "samples_seen": 1, "other": 1}',
            '{"step": 2}',
        ),
        *('{"step": 1' + "0" * 400 + "}", '{"step": 2, "samples_seen": 1, "scaler": null}'),
    ],
)
def test_a_state_of_any_kind_is_damage_in_one_line(state: str, run: Path) -> None:
    step = run / "step_0000002"
    (step / STATE).write_text(state)
    sum_again(step)
    with pytest.raises(ValueError, match=f"checkpoint {step} is damaged: {STATE} holds no state"):
        read_weights(step)
