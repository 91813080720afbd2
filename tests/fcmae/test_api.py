"""A few lines of Python: loading, features, reconstructions, and a run in this process."""

import doctest
import io
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform

import fcmae
from data.config import PixelConfig
from data.decode import open_image
from data.fitting import Fitted
from data.transforms import Normalise
from fcmae.run.metrics import read_metrics
from tests.support.programs import ROOT, run

TRAIN = str(ROOT / "data/demo/train-000000.tar.gz")
CHANGES = {
    "data": {"train": TRAIN, "workers": 0},
    "model.decoder_dim": 32,
    "optim": {"steps": 3, "batch_size": 4},
    "run.log_every": 1,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> fcmae.Run:
    folder = tmp_path_factory.mktemp("library") / "run"
    return fcmae.pretrain("demo", {**CHANGES, "run.dir": folder})


def picture(height: int = 90, width: int = 120) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_the_lines_of_the_module_do_what_they_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # the shards are made in its cache
    Path("photos").mkdir()
    for i in range(8):
        picture(90 + i).save(f"photos/{i}.jpg")
    result = doctest.testmod(sys.modules[fcmae.pretrain.__module__])
    assert (result.failed, result.attempted > 5) == (0, True)


def test_a_run_of_this_process_is_that_of_the_command(trained: fcmae.Run, tmp_path: Path) -> None:
    flags = ["--data.train", TRAIN, "--data.workers", "0", "--model.decoder_dim", "32"]
    flags += ["--optim.steps", "3", "--optim.batch_size", "4", "--run.log_every", "1"]
    done = run("-m", "fcmae", "pretrain", "demo", *flags, "--run.dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    theirs = [line["loss"] for line in read_metrics(tmp_path / "run")]
    assert trained.metrics["step"] == [1, 2, 3]
    assert trained.metrics["loss"] == theirs
    assert [path.name for path in trained.pictures] == ["step_0000003.png"]


def test_the_model_and_its_transform_are_timm_s(trained: fcmae.Run) -> None:
    model, transform = fcmae.load(str(trained.directory))
    assert not model.training
    theirs: Any = create_transform(**resolve_model_data_config(model))
    assert torch.equal(transform(picture()), theirs(picture()))
    with torch.inference_mode():
        assert model(transform(picture())[None]).shape == (1, 320)


@pytest.mark.parametrize("shape", [(90, 120), (120, 90), (32, 32), (20, 300)])
@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_arrays_of_any_depth_are_fitted_as_in_evaluation(
    shape: tuple[int, int], kind: str, trained: fcmae.Run
) -> None:
    _, transform = trained.load()
    pixels = np.random.default_rng(1).integers(0, 65535, (*shape, 3), dtype=np.uint16)
    array = pixels if kind == "uint16" else (pixels / 65535).astype(np.float32)
    file = io.BytesIO()
    np.save(file, array)
    opened = open_image(file.getvalue(), "npy", 3, PixelConfig(pixels="float32"))
    fitted = Fitted()(opened, (32, 32))
    metadata = transform.metadata
    expected = Normalise(metadata.mean, metadata.std, 3)(fitted[None])[0]
    torch.testing.assert_close(transform(array), expected, rtol=0, atol=1e-4)
    assert torch.equal(transform(array), transform(torch.from_numpy(array).permute(2, 0, 1)))


def test_paths_are_read_upright_and_on_the_background(trained: fcmae.Run, tmp_path: Path) -> None:
    _, transform = trained.load()
    turned = picture().transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(transform(tmp_path / "turned.png"), transform(picture()))
    glass = Image.new("RGBA", (40, 40), (10, 20, 30, 0))
    assert torch.equal(transform(glass), transform(Image.new("RGB", (40, 40), "white")))
    assert torch.equal(
        transform(picture().convert("L")), transform(picture().convert("L").convert("RGB"))
    )


@pytest.mark.parametrize("wrong", [np.zeros((9, 9, 5)), torch.zeros(1, 9, 9), torch.zeros(9, 9)])
def test_another_number_of_channels_is_refused(
    wrong: np.ndarray | torch.Tensor, trained: fcmae.Run
) -> None:
    _, transform = trained.load()
    with pytest.raises(ValueError, match="the model takes 3 channels"):
        transform(wrong)


def test_features_are_those_of_embed(trained: fcmae.Run, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    paths = [folder / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        picture(40 + 10 * i, 50).save(path)
    assert run("scripts/make_shards.py", folder, tmp_path / "shards").returncode == 0
    shards, out = tmp_path / "shards/train-000000.tar", tmp_path / "out.parquet"
    done = run("-m", "finetune.embed", shards, out, "--weights", trained.directory)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(out).sort_by("key").to_pydict()
    theirs = torch.tensor(table["feature"])
    ours = fcmae.features(trained.directory, paths, batch_size=2)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert fcmae.features(trained.directory, picture()).shape == (1, 320)


def test_a_reconstruction_has_four_pictures(trained: fcmae.Run) -> None:
    made = fcmae.reconstruct(trained.directory, picture(), seed=1)
    original, visible, prediction, pasted = (
        np.asarray(view).astype(int)
        for view in (made.original, made.visible, made.prediction, made.pasted)
    )
    assert original.shape == (32, 32, 3)
    seen = (visible == original).all(2).reshape(4, 8, 4, 8).all((1, 3))
    assert seen.sum() == 6  # int(16 x 0.4) patches of 8 px
    sites = seen.repeat(8, 0).repeat(8, 1)
    assert (pasted[sites] == original[sites]).all()
    assert (pasted[~sites] == prediction[~sites]).all()
    width, height = Image.open(io.BytesIO(made._repr_png_())).size
    assert width >= 512
    assert height > width / 4  # with a line of labels
    again = trained.reconstruct(picture(), seed=1)
    assert again.pasted.tobytes() == made.pasted.tobytes()
    assert trained.reconstruct(picture(), seed=2).visible.tobytes() != made.visible.tobytes()


def test_weights_without_a_decoder_reconstruct_nothing(trained: fcmae.Run, tmp_path: Path) -> None:
    weights = tmp_path / "encoder.safetensors"
    assert run("-m", "fcmae.convert", trained.directory, weights).returncode == 0
    assert fcmae.load(weights)[1].metadata == trained.load()[1].metadata
    with pytest.raises(OSError, match="no checkpoint"):
        fcmae.reconstruct(weights, picture())


def test_a_module_of_the_user_called_data_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("")
    code = "import sys; sys.path.insert(0, ''); import data, fcmae; fcmae.pretrain('demo')"
    done = run("-c", code, cwd=tmp_path)
    assert done.returncode != 0
    assert f"{tmp_path / 'data.py'} was imported as data" in done.stderr


def test_the_version_is_that_of_the_package() -> None:
    assert fcmae.__version__ == version("fcmae")
