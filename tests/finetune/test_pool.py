"""What is pooled, in every program that pools: it reaches features, files and heads."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator
from pyarrow import parquet
from safetensors.torch import load_file
from torch.nn import functional as F

import fcmae
from fcmae.weights.safetensors_files import read_metadata
from fcmae.weights.timm_models import save_timm
from finetune import embed, few_shot, knn, linear_probe, lookup, predict, train
from finetune.exploring.explored import load as explored
from finetune.frozen.config import ProbeConfig
from finetune.frozen.feature_cache import keep
from finetune.frozen.feature_file import FeatureTable
from finetune.frozen.features import labelled_features
from finetune.labels.config import LabelledData
from finetune.models import classifier
from finetune.models.backbone import backbone
from finetune.models.config import BackboneConfig
from tests.support.images import coloured, encoded
from tests.support.models import TINY
from tests.support.shards import write_colours

DIM = 320  # of atto; TINY makes maps of 2 x 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled shards, an encoder in encoder.safetensors, and a picture."""
    path = tmp_path_factory.mktemp("pool")
    for name, n in (("train", 30), ("test", 12)):
        write_colours(path, name, n)
    model, metadata = backbone("none", TINY)
    save_timm(path / "encoder.safetensors", model.state_dict(), metadata)
    (path / "picture.png").write_bytes(encoded(coloured(4)))
    return path


def flags(folder: Path, out: Path, *more: object) -> list[str]:
    """Words of the programs on labels."""
    data = ["--data.workers", "0"]
    for side in ("train", "test"):
        data += [f"--data.{side}", f"{folder}/{side}-000000.tar"]
    weights = ["--weights", str(folder / "encoder.safetensors"), "--out", str(out)]
    return [*data, *weights, *map(str, more)]


def maps_of(folder: Path, count: int) -> torch.Tensor:
    """The last maps of the first pictures of either shard."""
    model, _ = backbone(str(folder / "encoder.safetensors"), TINY)
    pixels = torch.stack([torch.from_numpy(coloured(i)).permute(2, 0, 1) for i in range(count)])
    with torch.no_grad():
        return model.eval().forward_features((pixels / 255 - 0.5) / 0.25)  # type: ignore[operator]


def test_probes_tell_what_they_pool_and_keep_it_apart(folder: Path, tmp_path: Path) -> None:
    data = LabelledData(
        train=(f"{folder}/train-000000.tar",), test=(f"{folder}/test-000000.tar",), workers=0
    )
    config = ProbeConfig(
        weights=str(folder / "encoder.safetensors"),
        data=data,
        out=tmp_path / "out.json",
        cache=tmp_path / "cache",
    )
    last, _, _ = labelled_features(config, Accelerator(cpu=True))
    grid, _, told = labelled_features(replace(config, pool="grid2"), Accelerator(cpu=True))
    assert len(list((tmp_path / "cache").iterdir())) == 4
    assert (told["pool"], grid.x.shape) == ("grid2", (30, 4 * DIM))
    expected = maps_of(folder, 30)  # their sites are the cells
    torch.testing.assert_close(grid.x, expected.flatten(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grid.x.view(30, DIM, 4).mean(2), last.x, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_features_kept_by_earlier_versions_are_made_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = flags(folder, tmp_path / "out.json", "--cache", tmp_path / "cache", "--ks", 1)
    knn.main(words)
    first = json.loads((tmp_path / "out.json").read_text())
    for file in (tmp_path / "cache").iterdir():
        kept = load_file(file)
        keep(file, {name: kept[name] for name in ("x", "y", "whole")}, print)
    knn.main(words)
    assert capsys.readouterr().out.count("is of an earlier version: the features are made") == 2
    assert json.loads((tmp_path / "out.json").read_text()) == first


@pytest.mark.parametrize(
    ("program", "options"),
    [(linear_probe, ("--epochs", 5)), pytest.param(knn, (), marks=pytest.mark.slow)],
)
def test_results_have_the_pool_and_figures_of_its_features(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    program: Any,
    options: tuple[object, ...],
) -> None:
    out = tmp_path / "out.json"
    program.main(flags(folder, out, "--pool", "grid2", "--seeds", 1, *options))
    result = json.loads(out.read_text())
    assert result["pool"] == "grid2"
    assert 1 < result["rankme"] <= 30
    assert result["alpha_req"] > 0
    channels = F.normalize(maps_of(folder, 30).flatten(2), dim=2)
    cosines = (channels @ channels.mT).mean((1, 2))
    assert result["feature_distance"] == pytest.approx(((1 - cosines) / 2).mean().item(), abs=1e-5)
    printed = capsys.readouterr().out
    for name in ("rankme", "alpha_req", "feature_distance"):
        assert f"{name}  " in printed
        assert f"{result[name]:.4f}" in printed


def test_a_grid_finer_than_the_map_is_refused(folder: Path, tmp_path: Path) -> None:
    message = r"pool=grid3 takes maps of at least 3 x 3 sites, and these have 2 x 2"
    with pytest.raises(ValueError, match=message):
        train.main(flags(folder, tmp_path / "out.json", "--pool", "grid3"))


def test_lookups_pool_as_the_file_tells(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard, weights = f"{folder}/train-000000.tar", str(folder / "encoder.safetensors")
    words = ["--weights", weights, "--data.workers", "0"]
    grid, last = tmp_path / "grid.parquet", tmp_path / "last.parquet"
    embed.main([shard, str(grid), *words, "--pool", "grid2"])
    embed.main([shard, str(last), *words])
    assert FeatureTable(grid).pool() == "grid2"
    assert len(FeatureTable(grid).feature(0)) == 4 * DIM
    query = ["--image", str(folder / "picture.png"), "--weights", weights, "--json"]
    for table in (grid, last, without_pool(last, tmp_path / "earlier.parquet")):
        capsys.readouterr()
        lookup.main(["neighbours", str(table), *query])
        first = json.loads(capsys.readouterr().out.splitlines()[0])
        assert first["key"] == "s4"
        assert first["cosine"] == pytest.approx(1, abs=1e-4)
    with pytest.raises(FileExistsError, match=r"not made by this command.*pool: last -> grid2"):
        embed.main([shard, str(last), *words, "--pool", "grid2"])
    strange = without_pool(last, tmp_path / "strange.parquet", pool="grid9")
    with pytest.raises(ValueError, match=r"has features of pool='grid9', which this version does"):
        lookup.main(["neighbours", str(strange), *query])


def without_pool(table: Path, copy: Path, **instead: str) -> Path:
    """A copy of a file of features that does not tell what was pooled, or tells something else."""
    content: pa.Table = parquet.read_table(table)
    told = {k.decode(): v.decode() for k, v in content.schema.metadata.items()}
    assert told.pop("pool") == "last"
    parquet.write_table(
        content.replace_schema_metadata(told | instead), copy, write_page_checksum=True
    )
    return copy


SHORT = ("--optim.steps", 2, "--optim.batch_size", 4)


def test_fine_tuning_gives_a_head_on_a_grid_that_all_programs_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, weights = tmp_path / "tuned.json", tmp_path / "tuned" / "weights.safetensors"
    train.main(flags(folder, out, *SHORT, "--pool", "grid2", "--head_init_scale", 1))
    assert json.loads(out.read_text())["pool"] == read_metadata(weights).pool == "grid2"
    assert load_file(weights)["head.fc.weight"].shape == (3, 4 * DIM)
    capsys.readouterr()
    words = [str(folder / "picture.png"), "--weights", str(weights), "--json", "--top", "3"]
    with pytest.raises(SystemExit):
        predict.main(words)
    told = {row["class"]: row["probability"] for row in json.loads(capsys.readouterr().out)["top"]}
    model, transform = fcmae.load(weights)
    image = transform(str(folder / "picture.png"))
    shares = model(image[None]).softmax(1)[0].tolist()
    assert [told[name] for name in ("0", "1", "2")] == pytest.approx(shares)
    page = explored(str(weights), torch.device("cpu"), print)
    assert page.answers(image).tolist() == pytest.approx(shares)
    again, metadata = classifier.create(BackboneConfig(weights=str(weights)), 2, 0)
    assert metadata.pool == "last"
    assert again.get_classifier().in_features == DIM  # type: ignore[operator]


@pytest.mark.slow
def test_few_labels_are_learned_on_a_grid_by_both_methods(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "few.json"
    few = ("--per_class", 2, "--fractions", 0.2, "--seeds", 1, "--probe_epochs", 5)
    few_shot.main(flags(folder, out, *SHORT, *few, "--pool", "grid2"))
    content = json.loads(out.read_text())
    assert content["pool"] == "grid2"
    assert set(content["results"]["2 per class"]) == {
        f"{start} {method}"
        for start in ("pretrained", "random")
        for method in ("probe", "finetune")
    }
    written = tmp_path / "few" / "2_per_class-seed0-pretrained-finetune" / "weights.safetensors"
    assert read_metadata(written).pool == "grid2"
    with pytest.raises(ValueError, match=r"few.*was made with another config \(pool: grid2 -> l"):
        few_shot.main(flags(folder, out, *SHORT, *few))


@pytest.mark.slow
def test_stages_are_for_the_probe_of_few_labels_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--per_class", 2, "--fractions", 0.2, "--seeds", 1, "--pool", "stages")
    for program, more in ((few_shot, few), (train, ("--pool", "stages"))):
        with pytest.raises(SystemExit):
            program.main(flags(folder, tmp_path / "out.json", *SHORT, *more))
        assert "pool=stages is for frozen features" in capsys.readouterr().err
    few_shot.main(flags(folder, tmp_path / "few.json", *SHORT, *few, "--methods", "probe"))
    content = json.loads((tmp_path / "few.json").read_text())
    assert set(content["results"]["2 per class"]) == {"pretrained probe", "random probe"}
