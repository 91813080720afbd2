"""Long pictures and exported preprocessing: what embedding and prediction see of whole pictures."""

import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from accelerate import Accelerator
from PIL import Image
from pyarrow import parquet
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor

from data.config import FittedConfig
from data.shards.writing import write_shards
from fcmae.weights.conversion import convert
from fcmae.weights.timm_models import save_timm
from finetune.frozen.config import EmbedConfig
from finetune.frozen.embedding import embed
from finetune.frozen.feature_file import FeatureTable
from finetune.frozen.features import labelled_images
from finetune.frozen.similarity import feature_of
from finetune.labels.class_prediction import answers_of
from finetune.labels.config import InferenceConfig, LabelledData
from finetune.labels.inference import Inference, read_image
from finetune.labels.tasks import Task
from finetune.models import classifier
from finetune.models.backbone import backbone
from finetune.models.config import BackboneConfig, RandomConfig
from finetune.models.pooling import pooled
from tests.support.images import encoded, photograph
from tests.support.models import TINY

ODD = [(401, 333), (333, 402), (375, 500), (129, 700), (777, 555), (64, 65)]
ENCODER = RandomConfig(stem_stride=1, image_size=64)
DATA = InferenceConfig(workers=0, batch_size=4)


def embedded(folder: Path, samples: list[dict[str, Any]], **options: Any) -> Path:
    """The file of features of these samples."""
    write_shards(samples, folder, "train", len(samples))
    out = folder / "out.parquet"
    paths = (str(folder / "train-000000.tar"), str(out))
    embed(EmbedConfig(paths=paths, **{"data": DATA, **options}), Accelerator(cpu=True))
    return out


def by_timm(source: Path, out: Path) -> Callable[[Image.Image], Tensor]:
    convert(source, out, to="hub")
    model: Any = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    transform: Any = create_transform(**resolve_model_data_config(model))
    return lambda image: model.forward_features(transform(image)[None]).mean((2, 3))[0]


def by_transformers(source: Path, out: Path) -> Callable[[Image.Image], Tensor]:
    convert(source, out, to="hf")
    process: Any = transformers.AutoImageProcessor.from_pretrained(out)
    model: Any = transformers.AutoModel.from_pretrained(out).eval()
    return lambda image: model(**process(image, return_tensors="pt")).last_hidden_state.mean(
        (2, 3)
    )[0]


@pytest.mark.parametrize("theirs", [by_timm, by_transformers])
def test_embedded_features_are_those_of_the_exported_preprocessing(
    tmp_path: Path, theirs: Callable[[Path, Path], Callable[[Image.Image], Tensor]]
) -> None:
    model, metadata = backbone("none", ENCODER)
    weights = tmp_path / "w.safetensors"
    save_timm(weights, model.state_dict(), metadata)
    files = []
    for i, shape in enumerate(ODD):
        file = io.BytesIO()
        Image.fromarray(photograph(*shape)).save(file, "jpeg", quality=92)
        files.append({"__key__": f"s{i}", "jpg": file.getvalue()})
    out = embedded(tmp_path, files, weights=str(weights))
    ours = torch.tensor(parquet.read_table(out).column("feature").to_pylist())
    features = theirs(weights, tmp_path / "exported")
    for row, file in zip(ours, files, strict=True):
        with torch.no_grad():
            wanted = features(Image.open(io.BytesIO(file["jpg"])))
        assert (row - wanted).norm() / wanted.norm() < 1e-3


def scan(end: int = 255) -> np.ndarray:
    """A picture of 200 x 3000 pixels, black but for its far end."""
    image = np.zeros((200, 3000, 3), np.uint8)
    image[:, 2850:] = end
    return image


@pytest.mark.parametrize("fit", ["crop", "pad", "squash", "tiles"])
def test_the_far_end_of_a_scan_is_embedded_but_by_the_crop(tmp_path: Path, fit: Any) -> None:
    samples = [{"__key__": f"s{end}", "png": encoded(scan(end))} for end in (0, 255)]
    options = {"weights": "none", "random": TINY, "data": replace(DATA, fit=fit)}
    out = embedded(tmp_path, samples, **options)
    black, white = torch.tensor(parquet.read_table(out).column("feature").to_pylist())
    assert torch.equal(black, white) == (fit == "crop")
    assert FeatureTable(out).config() == FittedConfig(fit=fit)


def test_a_row_a_tile_or_their_mean(tmp_path: Path) -> None:
    model, metadata = backbone("none", TINY)
    save_timm(tmp_path / "w.safetensors", model.state_dict(), metadata)
    (tmp_path / "scan.png").write_bytes(encoded(scan()))
    (tmp_path / "image.png").write_bytes(encoded(photograph(40, 40)))
    samples: list[dict[str, Any]] = [{"__key__": "bad", "png": b"no image", "cls": 1}]
    for i, name in enumerate(("scan", "image")):
        samples.append({"__key__": name, "png": (tmp_path / f"{name}.png").read_bytes(), "cls": i})
    data = replace(DATA, fit="tiles", max_bad_fraction=0.5)
    made = {"weights": str(tmp_path / "w.safetensors"), "data": data}
    mean = embedded(tmp_path / "mean", samples, **made)
    rows = embedded(tmp_path / "rows", samples, **made, tiles="rows")
    table = FeatureTable(rows)
    names = list(table.names())
    assert [(n["key"], n["tile"], n["label"]) for n in names] == [
        *(("scan", i, 0) for i in range(15)),
        ("image", 0, 1),
    ]
    with torch.no_grad():
        tiles = pooled(
            model.eval(), read_image(tmp_path / "scan.png", metadata, data.fitted(metadata)), "last"
        )
    # batches of other sizes take other convolution kernels
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
    for i in (0, 14):
        close(table.feature(table.find("scan", tile=i)), tiles[i])
    with pytest.raises(ValueError, match="no sample of key 'scan' with a tile 15;"):
        table.find("scan", tile=15)
    whole = FeatureTable(mean)
    close(whole.feature(whole.find("scan")), tiles.mean(0))
    found = feature_of(tmp_path / "scan.png", tmp_path / "w.safetensors", whole)
    close(found, tiles.mean(0))
    with pytest.raises(ValueError, match=r"tiles=rows with data.fit=crop: give --data.fit tiles"):
        embedded(tmp_path / "crop", samples, **(made | {"data": DATA}), tiles="rows")


def test_probes_take_the_mean_of_the_tiles(tmp_path: Path) -> None:
    samples = [{"__key__": f"s{i}", "png": encoded(scan(i)), "cls": 0} for i in (0, 255)]
    samples.insert(1, {"__key__": "small", "png": encoded(photograph(20, 20)), "cls": 1})
    write_shards(samples, tmp_path, "train", 3)
    spec = (str(tmp_path / "train-000000.tar"),)
    data = LabelledData(train=spec, test=spec, workers=0, batch_size=2, fit="tiles")
    model, metadata = backbone("none", TINY)
    model.eval()
    images = labelled_images(spec, metadata, data)
    found = Inference(images, metadata, data, Accelerator(cpu=True)).outputs(
        model, lambda x: pooled(model, x, "last")
    )
    (tmp_path / "scan.png").write_bytes(encoded(scan()))
    with torch.no_grad():
        tiles = pooled(
            model, read_image(tmp_path / "scan.png", metadata, data.fitted(metadata)), "last"
        )
    assert found.labels.tolist() == [0, 1, 0]
    torch.testing.assert_close(found.rows[2], tiles.mean(0), rtol=1e-4, atol=1e-5)


def test_predictions_are_the_mean_of_the_answers_of_the_tiles(tmp_path: Path) -> None:
    task = Task(kind="class", field="", names=("a", "b", "c"))
    model, metadata = classifier.create(BackboneConfig(random=TINY, head_init_scale=9.0), 3, 0)
    (tmp_path / "scan.png").write_bytes(encoded(scan()))
    config = FittedConfig(fit="tiles")
    answered = answers_of(
        model.eval(), metadata, task, [tmp_path / "scan.png"], config, batch_size=4, failures=[]
    )
    ((_, found),) = answered
    with torch.no_grad():
        each = task.answers(model(read_image(tmp_path / "scan.png", metadata, config)))
    assert len(each) == 15
    torch.testing.assert_close(found, each.mean(0))
    assert not torch.allclose(found, each[0])
