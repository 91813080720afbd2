"""How images were read travels with weights: through every form of them, into every program."""

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from data.config import FittedConfig
from data.shards.writing import write_shards
from fcmae.run import checkpoint
from fcmae.run.config import to_yaml
from fcmae.run.directory import compare
from fcmae.weights.conversion import convert
from fcmae.weights.files import read_weights
from fcmae.weights.metadata import Metadata, header_for
from fcmae.weights.timm_models import as_timm
from finetune.frozen.config import EmbedConfig, ProbeConfig
from finetune.frozen.embedding import embed
from finetune.frozen.feature_file import FeatureTable
from finetune.frozen.features import labelled_features
from finetune.frozen.neighbours import knn_accuracy
from finetune.labels.config import InferenceConfig, LabelledData, ReadingConfig, resolved
from finetune.labels.tasks import Task
from finetune.models import classifier
from finetune.models.backbone import backbone, sha256_of
from finetune.models.config import BackboneConfig, RandomConfig
from finetune.training.config import TrainConfig
from tests.support.images import encoded
from tests.support.models import saved_run, trained

LOW, HIGH = 900.0, 1156.0  # all of them are 4 of 255 in eight bits
READING: dict[str, Any] = {"pixels": "float32", "range": (LOW, HIGH), "nodata": -1.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on grey images of 16 bits whose values lie in a narrow range."""
    path = tmp_path_factory.mktemp("run")
    reading = READING | {"background": [0, 0, 0]}
    model = trained("convnextv2_atto", 1, 1)
    saved_run(path, model, name="convnextv2_atto", stem_stride=1, in_chans=1, reading=reading)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledData:
    """Images of two classes that differ in their lower eight bits alone."""
    folder = tmp_path_factory.mktemp("data")

    def sample(i: int) -> dict[str, object]:
        low = 30 if i % 2 else 200
        pixels = np.random.default_rng(i).integers(low, low + 20, (16, 24)) + int(LOW)
        return {"__key__": f"s{i}", "png": encoded(pixels.astype(np.uint16)), "cls": i % 2}

    for name, n in (("train", 24), ("test", 12)):
        write_shards((sample(i) for i in range(n)), folder, name, n)
    spec: dict[str, Any] = {
        name: (str(folder / f"{name}-000000.tar"),) for name in ("train", "test")
    }
    return LabelledData(**spec, workers=0)


def test_an_earlier_run_without_flags_read_as_its_weights_tell(
    tmp_path: Path, run: Path, data: LabelledData
) -> None:
    """`data.pixels` may be null, of a flag or of the weights: the reading is what is compared."""
    metadata = read_weights(run).told_metadata(run)
    told = {f"data.{name}": value for name, value in reading_of(metadata).items()}
    saved_run(tmp_path, trained("convnextv2_atto", 1, 1), name="x", stem_stride=1, in_chans=1)
    refused = r"another config \(data\.pixels: uint8 -> float32\); take"
    for pixels, expected in ((None, None), ("float32", None), ("uint8", refused)):
        earlier = TrainConfig(
            data=dataclasses.replace(data, pixels=pixels, background=(0, 0, 0)),
            out=tmp_path / "out.json",
        )
        (tmp_path / checkpoint.CONFIG).write_text(to_yaml(earlier))
        config = dataclasses.replace(earlier, data=resolved(data, metadata))
        with nullcontext() if expected is None else pytest.raises(ValueError, match=expected):
            compare(tmp_path, config, print, free=(), told=told)


def reading_of(metadata: Metadata) -> dict[str, Any]:
    return {name: getattr(metadata, name) for name in READING}


@pytest.mark.parametrize("to", ["timm", "official", "hub"])
def test_every_form_of_the_weights_tells_how_images_were_read(
    tmp_path: Path, run: Path, to: Any
) -> None:
    out = tmp_path / {"timm": "x.safetensors", "official": "x.pt", "hub": "x"}[to]
    convert(run, out, to=to)
    for source in (run, out):
        metadata = read_weights(source).metadata
        assert metadata is not None
        assert reading_of(metadata) == READING
        assert metadata.background == (0, 0, 0)
    if to == "hub":
        card = (out / "README.md").read_text()
        assert "| the scale 0 ... 1 | (stored value - 900) / 256, clipped to 0 ... 1 |" in card


def test_weights_of_earlier_versions_were_made_of_eight_bits(tmp_path: Path) -> None:
    model = trained("convnextv2_atto", 1, 1)
    saved_run(tmp_path, model, name="convnextv2_atto", stem_stride=1, in_chans=1)
    metadata = read_weights(tmp_path).metadata
    assert metadata is not None
    assert ReadingConfig().fitted(metadata) == FittedConfig()
    old = json.loads(header_for(metadata, {})["fcmae"])
    for name in (*READING, "background"):
        del old[name]
    assert Metadata.of_json(json.dumps(old)) == metadata


def test_what_is_given_goes_before_what_the_weights_tell(run: Path) -> None:
    metadata = read_weights(run).metadata
    assert metadata is not None
    given = ReadingConfig(nodata=7.0, background=(9, 9, 9), fit="pad").fitted(metadata)
    told = {"pixels": "float32", "range": (LOW, HIGH)}
    assert given == FittedConfig(**told, nodata=7.0, background=(9, 9, 9), fit="pad")
    # what was kept under the hash of weights of earlier versions stays so
    model = as_timm(read_weights(run).tensors, metadata)
    assert sha256_of(model, metadata) == sha256_of(
        model, dataclasses.replace(metadata, pixels="uint8", range=None, nodata=None)
    )


def test_a_probe_reads_as_the_pretraining_did(
    tmp_path: Path, run: Path, data: LabelledData
) -> None:
    accelerator = Accelerator(cpu=True)

    def accuracy(**given: Any) -> float:
        model, metadata = backbone(str(run), RandomConfig())
        return knn_accuracy(model, metadata, dataclasses.replace(data, **given), 3, accelerator)

    assert accuracy() == 1.0
    assert accuracy(pixels="uint8", range=(0.0, 65535.0)) < 0.9
    config = ProbeConfig(weights=str(run), data=data, out=tmp_path / "x.json")
    features, _, made = labelled_features(config, accelerator)
    given = dataclasses.replace(config, data=dataclasses.replace(data, **READING))
    assert torch.equal(features.x, labelled_features(given, accelerator)[0].x)
    assert made["pixels"] == "float32"


def test_an_embedding_tells_how_the_weights_read(
    tmp_path: Path, run: Path, data: LabelledData
) -> None:
    out = tmp_path / "x.parquet"
    config = EmbedConfig(
        paths=(*data.test, str(out)), weights=str(run), data=InferenceConfig(workers=0)
    )
    embed(config, Accelerator(cpu=True))
    assert FeatureTable(out).config() == FittedConfig(**READING, background=(0, 0, 0))


def test_fine_tuned_weights_tell_what_they_were_given(tmp_path: Path, run: Path) -> None:
    model, metadata = classifier.create(BackboneConfig(weights=str(run)), 2, 0)
    given = ReadingConfig(nodata=7.0).given(metadata)
    task = Task(kind="class", field="", names=("a", "b"))
    classifier.save(tmp_path / "w.safetensors", model, given, task)
    _, told, _ = classifier.load(tmp_path / "w.safetensors")
    assert reading_of(told) == READING | {"nodata": 7.0}


@pytest.mark.parametrize("form", ["run", "file"])
def test_the_random_start_is_like_the_encoder_that_it_is_compared_with(
    tmp_path: Path, run: Path, form: str
) -> None:
    like = str(run)
    if form == "file":
        like = str(tmp_path / "w.safetensors")
        convert(run, Path(like))
    model, metadata = backbone("none", RandomConfig(like=like, seed=3))
    encoder = read_weights(run).metadata
    assert encoder is not None
    assert metadata == dataclasses.replace(encoder, step=0)
    by_hand = RandomConfig(
        image_size=(16, 24), in_chans=1, stem_stride=1, mean=(0.5,), std=(0.25,), seed=3
    )
    wanted = backbone("none", by_hand)[0].state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())
    other, told = classifier.create(
        BackboneConfig(backbone="timm:resnet18", random=RandomConfig(like=like)), 2, 0
    )
    assert (told.model, told.image_size, told.in_chans) == ("timm:resnet18", (16, 24), 1)
    assert reading_of(told) == READING
    assert other.state_dict()["conv1.weight"].shape[1] == 1


def test_what_the_encoder_tells_is_not_given_beside_it(run: Path) -> None:
    random = RandomConfig(like=str(run), image_size=64, mean=(0.5,))
    with pytest.raises(
        ValueError, match=r"tells it itself: leave --random\.image_size, --random\.m"
    ):
        backbone("none", random)
