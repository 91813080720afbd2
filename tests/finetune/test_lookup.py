"""Look-ups over features: neighbours and near-duplicates against brute force, and bad input."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator
from pyarrow import parquet

from data.shards.writing import write_shards
from fcmae.run.program import run_program
from fcmae.weights.timm_creation import create_timm
from fcmae.weights.timm_models import save_timm
from finetune.frozen.config import EmbedConfig
from finetune.frozen.embedding import embed
from finetune.frozen.feature_file import FeatureTable
from finetune.frozen.similarity import RIDGE, Whitening, duplicates, nearest
from finetune.labels.config import InferenceConfig
from finetune.lookup import main
from finetune.models.backbone import backbone
from tests.support.images import png
from tests.support.models import TINY

MADE = {"weights_sha256": "0" * 64, "weights": "x.safetensors", "model": "m", "step": "3"}
N, D = 700, 6


def write_table(path: Path, features: torch.Tensor, made: dict[str, str] | None = None) -> Path:
    """A file of these features, in row groups of 128; every key is in two shards."""
    n, d = features.shape
    flat = pa.array(features.flatten().numpy())
    columns = {
        "url": [f"{'ab'[i % 2]}.tar" for i in range(n)],
        "key": [f"s{i // 2}" for i in range(n)],
        "label": pa.array([i % 3 if i % 5 else None for i in range(n)], pa.int64()),
        "feature": pa.FixedSizeListArray.from_arrays(flat, d),
    }
    table = pa.table(columns).replace_schema_metadata(MADE if made is None else made)
    parquet.write_table(table, path, row_group_size=128)
    return path


def features_of(n: int = N) -> torch.Tensor:
    """Correlated and off the origin, the last third close to the first."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, D, generator=generator) @ torch.randn(D, D, generator=generator) + 9
    third = n // 3
    x[-third:] = x[:third] + 0.03 * torch.randn(third, D, generator=generator)
    return x


def table_of(folder: Path, features: torch.Tensor, rows: int = 300) -> FeatureTable:
    return FeatureTable(write_table(folder / "out.parquet", features), rows)


def cosines_of(features: torch.Tensor) -> torch.Tensor:
    """Of all pairs, whitened, in float64."""
    x = features.double() - features.double().mean(0)
    variance, directions = torch.linalg.eigh(x.T @ x / len(x))
    x = x @ directions / (variance + RIDGE * variance.mean()).sqrt()
    return torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1)


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    features = features_of()
    features[400, 2] = torch.nan
    with pytest.raises(ValueError, match=r"out\.parquet: the feature of row 400 is not finite"):
        Whitening(table_of(tmp_path, features))


def test_whitening_is_that_of_all_rows(tmp_path: Path) -> None:
    features = features_of()
    white = Whitening(table_of(tmp_path, features))(features)
    expected = cosines_of(features).float()
    torch.testing.assert_close(white @ white.T, expected, rtol=0.0, atol=1e-4)


def test_neighbours_are_those_of_brute_force(tmp_path: Path) -> None:
    features = features_of()
    table, cosines = table_of(tmp_path, features), cosines_of(features)
    for row in (0, 299, 300, N - 1):  # of several parts
        found = nearest(table, table.feature(row), 5, row)
        expected = cosines[row].index_fill(0, torch.tensor(row), -2.0).topk(5)
        assert [i for _, i in found] == expected.indices.tolist()
        assert [c for c, _ in found] == pytest.approx(expected.values.tolist(), abs=1e-4)
    assert nearest(table, table.feature(9), 1)[0][1] == 9  # a row counts unless it is left out


@pytest.mark.parametrize("threshold", [0.8, 0.95, 0.99])
def test_duplicates_are_the_components_of_all_near_pairs(tmp_path: Path, threshold: float) -> None:
    features = features_of()
    found = duplicates(table_of(tmp_path, features), threshold)
    near = cosines_of(features) >= threshold - 1e-6
    reach = near
    while not torch.equal(reach, further := (reach.float() @ near.float() > 0)):
        reach = further
    expected = {tuple(row.nonzero().flatten().tolist()) for row in reach if row.sum() > 1}
    assert {tuple(group) for group in found} == expected
    assert [len(group) for group in found] == sorted(map(len, found), reverse=True)


def test_threshold_one_finds_equal_features_alone(tmp_path: Path) -> None:
    features = torch.randn(400, D, generator=torch.Generator().manual_seed(1))
    features[[7, 320]] = features[30].clone()
    features[399] = features[12]
    assert duplicates(table_of(tmp_path, features), 1.0) == [[7, 30, 320], [12, 399]]


def test_equal_samples_are_one_group_whatever_their_number(tmp_path: Path) -> None:
    features = torch.randn(1, D).repeat(N, 1)
    features[0] *= -1
    assert duplicates(table_of(tmp_path, features), 0.98) == [list(range(1, N))]


def test_json_lines_name_the_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = torch.randn(20, D)
    features[7] = features[4]
    path = write_table(tmp_path / "out.parquet", features)
    main(["duplicates", str(path), "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        {"group": 1, "url": "a.tar", "key": "s2", "label": 1},
        {"group": 1, "url": "b.tar", "key": "s3", "label": 1},
    ]
    main(["neighbours", str(path), "--key", "s2", "--url", "a.tar", "--k", "2", "--json"])
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first.pop("cosine") == pytest.approx(1)
    assert first == {"url": "b.tar", "key": "s3", "label": 1}
    assert second["cosine"] < 0.999


def test_classes_that_have_a_name_are_called_by_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = MADE | {"classes": '["sun", "[/moon]"]'}
    path = write_table(tmp_path / "out.parquet", torch.randn(20, D), made=made)
    labels = [row["label"] for row in FeatureTable(path).names()]
    assert labels[:6] == [None, "[/moon]", 2, "sun", "[/moon]", None]
    main(["neighbours", str(path), "--key", "s1", "--url", "a.tar", "--k", "19"])
    printed = capsys.readouterr().out
    assert "sun" in printed
    assert "[/moon]" in printed
    assert "none" in printed  # of the samples without a label
    assert "not defined" not in printed


def test_tables_name_the_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = torch.randn(20, D)
    features[7] = features[4]
    path = write_table(tmp_path / "out.parquet", features)
    main(["duplicates", str(path)])
    printed = capsys.readouterr().out
    assert "1 groups, 2 of 20 samples, at cosines from 0.98" in printed
    assert "s3" in printed
    main(["neighbours", str(path), "--key", "s2", "--url", "a.tar", "--k", "2"])
    printed = capsys.readouterr().out
    assert "nearest to s2" in printed
    assert "1.0000" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["neighbours", "--key", "s99"], r"has no sample of key 's99'; a key is a member's name"),
        (["neighbours", "--key", "s1", "--url", "c.tar"], r"no sample of key 's1' in c.tar"),
        (
            ["neighbours", "--key", "s1"],
            r"'s1' is ambiguous, 2 samples have it; url and key.*--url a.tar or b.tar",
        ),
        (
            ["neighbours", "--key", "s1", "--url", "a.tar", "--k", "20"],
            r"k=20 must lie between 1 and the 19 samples to choose from",
        ),
        (["neighbours", "--key", "s1", "--url", "a.tar", "--k", "0"], r"k=0 must be at least 1"),
        (["neighbours"], r"give --key .*or --image with the --weights that .*out.parquet"),
        (["neighbours", "--key", "s1", "--image", "x.png"], r"give --key .*or --image with the"),
        (["neighbours", "--image", "x.png"], r"give --key .*or --image with the --weights"),
        (["duplicates", "--threshold", "0"], r"threshold=0.0 must lie in \(0, 1\]"),
        (["duplicates", "--threshold", "1.1"], r"threshold=1.1 must lie in \(0, 1\]"),
    ],
)
def test_what_cannot_be_looked_up_is_named(flags: list[str], message: str, tmp_path: Path) -> None:
    path = write_table(tmp_path / "out.parquet", torch.randn(20, D))
    with pytest.raises(ValueError, match=message):
        main([flags[0], str(path), *flags[1:]])


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    with pytest.raises(FileNotFoundError, match=r"out.parquet does not exist; make it with"):
        FeatureTable(path)
    path.write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"out.parquet is damaged or no Parquet file .*; make it"):
        FeatureTable(path)
    parquet.write_table(pa.table({"a": [1], "b": [2]}), path)
    with pytest.raises(ValueError, match=r"not written by finetune.embed, its columns are a, b; "):
        FeatureTable(path)
    write_table(path, torch.randn(4, D), made={})
    with pytest.raises(ValueError, match=r"not written by finetune.embed, its columns are url, "):
        FeatureTable(path)
    write_table(path, torch.randn(0, D))
    with pytest.raises(ValueError, match=r"out.parquet has no samples, all of them were broken"):
        FeatureTable(path)


def test_an_image_is_looked_up_with_the_weights_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(({"__key__": f"s{i}", "png": png(i)} for i in range(12)), tmp_path, "train", 12)
    _, metadata = backbone("none", TINY)
    for name in ("right", "wrong"):  # timm draws other ones each time
        save_timm(tmp_path / f"{name}.safetensors", create_timm(metadata).state_dict(), metadata)
    out, weights = tmp_path / "out.parquet", tmp_path / "right.safetensors"
    config = EmbedConfig(
        paths=(str(tmp_path / "train-000000.tar"), str(out)),
        weights=str(weights),
        data=InferenceConfig(workers=0),
    )
    embed(config, Accelerator(cpu=True))
    image = tmp_path / "query.png"
    image.write_bytes(png(5))
    flags = ["neighbours", str(out), "--k", "2", "--json", "--weights"]
    main([*flags, str(weights), "--image", str(image)])
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["key"], first["label"]) == ("s5", None)
    assert first["cosine"] > 0.999 > second["cosine"]

    wrong = tmp_path / "wrong.safetensors"
    with pytest.raises(ValueError, match=r"wrong.safetensors are not the weights of .*right.safe"):
        main([*flags, str(wrong), "--image", str(image)])
    with pytest.raises(FileNotFoundError, match=r"image .*none.png does not exist"):
        main([*flags, str(weights), "--image", str(tmp_path / "none.png")])
    with pytest.raises(
        ValueError, match=r"out.parquet: .*no known format, though its name ends in .parquet"
    ):
        main([*flags, str(weights), "--image", str(out)])
    image.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"query.png: 7 bytes cannot be decoded as an image"):
        main([*flags, str(weights), "--image", str(image)])


def test_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lookup", "duplicates", str(tmp_path / "no.parquet")])
    with pytest.raises(SystemExit, match=r"\Aerror: .*no.parquet does not exist; .*\Z"):
        run_program(main)
