"""Files for the official code: what its fine-tuning makes of them, and the sparse layout."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fcmae.weights.conversion import convert
from fcmae.weights.files import read_weights
from fcmae.weights.official import to_kernel
from fcmae.weights.timm_models import save_timm, to_timm
from fcmae.weights.weight_names import shapes_of, table
from tests.fcmae.weights.test_files import assert_equal, features, official, plain_features
from tests.support.models import metadata_of, saved_run, trained


def remapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the official fine-tuning makes of the names and shapes of a file before it loads it.

    Decoders go, by parts of their names. A kernel [taps, in, out] or [taps, channels] becomes a
    weight, whose square of taps is transposed. The level `ln` or `linear` of a name goes. A bias is
    flattened; GRN's tensors get two axes in front.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if any(part in key for part in ("decoder", "mask_token", "proj", "pred")):
            continue
        *path, leaf = key.removeprefix("encoder.").split(".")
        if leaf == "kernel":
            k = round(tensor.shape[0] ** 0.5)
            taps = tensor if tensor.ndim == 3 else tensor[:, None]
            found[".".join([*path, "weight"])] = taps.permute(2, 1, 0).unflatten(2, (k, k)).mT
            continue
        if "ln" in key or "linear" in key:
            path.pop()
        if leaf == "bias":
            tensor = tensor.flatten()
        elif "grn" in key:
            tensor = tensor[None, None]
        found[".".join([*path, leaf])] = tensor
    return found


def run_of(folder: Path, name: str, stem_stride: int, in_chans: int) -> Any:
    model = trained(name, stem_stride, in_chans)
    saved_run(folder, model, name=name, stem_stride=stem_stride, in_chans=in_chans)
    return model


def read(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["model"]


@pytest.mark.parametrize(
    ("name", "stem_stride", "in_chans"),
    [("convnextv2_atto", 4, 3), ("convnextv2_atto", 2, 13), ("convnext_atto", 1, 1)],
)
def test_the_official_fine_tuning_gets_the_dense_model_that_computes_our_features(
    tmp_path: Path, name: str, stem_stride: int, in_chans: int
) -> None:
    model = run_of(tmp_path / "run", name, stem_stride, in_chans)
    convert(tmp_path / "run", tmp_path / "out.pt", to="official")
    state = remapped(read(tmp_path / "out.pt"))
    encoder = {k: v for k, v in state.items() if not k.startswith("norm.")}
    assert_equal(encoder, official(model.encoder, "dense"))
    assert torch.equal(state["norm.weight"], torch.ones(320))
    assert torch.equal(state["norm.bias"], torch.zeros(320))
    images = torch.randn(2, in_chans, *model.image_size)
    # float32: both sum the same products in another order
    torch.testing.assert_close(
        features(model, images), plain_features(state, images, stem_stride), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("stem_stride", "in_chans"), [(4, 3), (1, 2)])
def test_the_sparse_file_is_that_of_the_official_pretraining(
    tmp_path: Path, stem_stride: int, in_chans: int
) -> None:
    model = run_of(tmp_path / "run", "convnextv2_atto", stem_stride, in_chans)
    told = convert(tmp_path / "run", tmp_path / "out.pt", to="official-sparse")
    assert told.endswith("the sparse model has no final norm: it is left out")
    state = read(tmp_path / "out.pt")
    assert_equal(state, official(model.encoder, "sparse"))
    assert_equal(remapped(state), official(model.encoder, "dense"))
    assert_equal(read_weights(tmp_path / "out.pt").tensors, dict(model.encoder.state_dict()))


def test_every_name_of_the_sparse_file_is_in_the_table() -> None:
    model = trained("convnextv2_atto", 4, 3)
    architecture = metadata_of(model, "convnextv2_atto", 4, 3).architecture
    sparse = {row.sparse for row in table(architecture) if row.ours in shapes_of(architecture)}
    stem = {row.sparse for row in table(architecture) if row.ours.startswith("stem.")}
    assert sparse - official(model.encoder, "sparse").keys() <= stem


def test_what_the_sparse_model_has_not_is_refused(tmp_path: Path) -> None:
    for name, classes, message in (
        ("convnextv2_atto", 2, "sparse model has no classifier: take --to official"),
        ("convnext_atto", 0, "convnext_atto has no official sparse model: take --to official"),
    ):
        model = trained(name, 1, 3)
        metadata = metadata_of(model, name, 1, 3)
        tensors = to_timm(model.encoder.state_dict(), metadata)
        if classes:
            tensors |= {"head.fc.weight": torch.ones(2, 320), "head.fc.bias": torch.ones(2)}
        save_timm(tmp_path / f"{name}.safetensors", tensors, metadata)
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / f"{name}.safetensors", tmp_path / "out.pt", to="official-sparse")


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_minkowski_engine_convolves_with_the_kernels() -> None:
    pytest.importorskip("MinkowskiEngineBackend")
    engine: Any = importlib.import_module("fcmae.sparse.minkowski").ME
    x = torch.randn(2, 5, 6, 8)
    for layer, conv in (
        (
            engine.MinkowskiConvolution(5, 7, kernel_size=2, stride=2, bias=True, dimension=2),
            torch.nn.Conv2d(5, 7, 2, 2),
        ),
        (
            engine.MinkowskiChannelwiseConvolution(5, kernel_size=3, bias=True, dimension=2),
            torch.nn.Conv2d(5, 5, 3, padding=1, groups=5),
        ),
    ):
        kernel = to_kernel(conv.weight.detach())
        assert conv.bias is not None
        state = {"kernel": kernel, "bias": conv.bias.detach().view(1, -1)}
        assert {k: v.shape for k, v in layer.state_dict().items()} == {
            k: v.shape for k, v in state.items()
        }
        layer.load_state_dict(state)
        with torch.no_grad():
            found = layer(engine.to_sparse(x)).dense()[0]
            torch.testing.assert_close(found, conv(x), rtol=1e-4, atol=1e-5)
