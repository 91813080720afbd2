"""The file of features: its rows, who wrote them, kills, and what is refused."""

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from pyarrow import parquet

from data.decode import open_image
from data.fitting import Fitted
from data.shards.writing import write_shards
from finetune.frozen.config import EmbedConfig
from finetune.frozen.embedding import embed
from finetune.frozen.feature_file import FeatureTable
from finetune.frozen.parts import assemble
from finetune.labels.config import InferenceConfig
from finetune.models.backbone import backbone
from tests.support.images import png
from tests.support.models import TINY
from tests.support.programs import kill, run, start_ranks, wait_for

DATA = InferenceConfig(batch_size=4, workers=0)
N = 60


def sample(i: int) -> dict:
    """Every fourth has no label, and so has the one that is broken."""
    if i == 7:
        return {"__key__": "broken", "png": b"no image"}
    return {"__key__": f"s{i}", "png": png(i), **({"cls": i % 3} if i % 4 else {})}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    write_shards((sample(i) for i in range(N)), folder, "train", N // 2)
    return str(folder / "train-{000000..000001}.tar")


def config_of(shards: str, out: Path) -> EmbedConfig:
    lax = replace(DATA, max_bad_fraction=0.1)
    return EmbedConfig(paths=(shards, str(out)), weights="none", data=lax, random=TINY, piece=10)


def command(shards: str, out: Path) -> list[str]:
    """The same from a command line, in pieces of two."""
    flags = "--weights none --random.image_size 16 --random.stem_stride 1 --data.workers 0"
    flags += " --data.max_bad_fraction 0.1 --piece 2"
    return ["-m", "finetune.embed", shards, str(out), *flags.split()]


def finish(shards: str, out: Path, world: int = 1) -> subprocess.CompletedProcess[str]:
    done = run(*command(shards, out), world=world)
    assert done.returncode == 0, done.stderr
    return done


def kill_at(parts: int, shards: str, out: Path, world: int = 1) -> None:
    """Start, and kill all processes as soon as so many parts are there."""
    processes = start_ranks(world, *command(shards, out))
    folder = out.with_name(f"{out.name}.parts")
    wait_for(lambda: len(list(folder.glob("part-*.parquet"))) >= parts, *processes)
    kill(*processes)
    assert not out.exists()


@pytest.fixture(scope="module")
def uninterrupted(shards: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("embed") / "out.parquet"
    done = finish(shards, out)
    assert "features of 59 samples, 1 left out" in done.stdout
    return out.read_bytes()


def test_every_whole_sample_has_a_row(
    shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accelerator, out = Accelerator(cpu=True), tmp_path / "out.parquet"
    assert embed(config_of(shards, out), accelerator).endswith("59 samples, 1 left out")
    assert "skipped train-000000.tar: sample 'broken': " in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]  # and no parts
    rows, whole = parquet.read_table(out).to_pylist(), [i for i in range(N) if i != 7]
    assert [row["key"] for row in rows] == [f"s{i}" for i in whole]
    assert [row["label"] for row in rows] == [i % 3 if i % 4 else None for i in whole]
    folder = Path(shards).parent
    urls = [str(folder / f"train-{i:06d}.tar") for i in range(2)]
    assert [row["url"] for row in rows] == [urls[i // 30] for i in whole]
    model, _ = backbone("none", TINY)
    for i in (0, 31):
        image = Fitted()(open_image(png(i), "png", 3), (16, 16))
        with torch.no_grad():
            maps = model.eval().forward_features((image[None] / 255 - 0.5) / 0.25)  # type: ignore[operator]
        found = torch.tensor(rows[whole.index(i)]["feature"])
        # batches of other sizes take other convolution kernels
        torch.testing.assert_close(found, maps.mean((2, 3))[0], rtol=1e-4, atol=1e-5)


def test_the_file_says_what_it_was_made_with(shards: str, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    embed(config_of(shards, out), Accelerator(cpu=True))
    file = parquet.ParquetFile(out)
    made = {k.decode(): v.decode() for k, v in file.schema_arrow.metadata.items()}
    assert (made["model"], made["weights"], made["step"]) == ("convnextv2_atto", "none", "0")
    assert (made["image_size"], made["mean"], made["std"]) == ("[16, 16]", "[0.5]", "[0.25]")
    types = [str(field.type) for field in file.schema_arrow]
    assert types == ["string", "string", "int64", "fixed_size_list<element: float>[320]"]
    assert file.num_row_groups == 6  # a piece each


def test_labels_that_are_text_are_kept(tmp_path: Path) -> None:
    def rows(*labels: str | int) -> list:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        samples = ({"__key__": f"s{i}", "png": png(i), "cls": c} for i, c in enumerate(labels))
        write_shards(samples, folder, "train", 9)
        out = folder / "out.parquet"
        config = config_of(str(folder / "train-000000.tar"), out)
        embed(replace(config, piece=2, data=DATA), Accelerator(cpu=True))
        return parquet.read_table(out)["label"].to_pylist()

    assert rows(3, 1, -1) == [3, 1, None]
    assert rows(3, 1, "cat", -1) == ["3", "1", "cat", None]


def test_other_batches_and_pieces_give_the_same_features(shards: str, tmp_path: Path) -> None:
    tables = []
    for piece, batch_size in ((10, 4), (7, 60)):
        out = tmp_path / f"{piece}.parquet"
        config = config_of(shards, out)
        data = replace(config.data, batch_size=batch_size)
        embed(replace(config, piece=piece, data=data), Accelerator(cpu=True))
        tables.append(parquet.read_table(out))
    one, other = (torch.tensor(table.column("feature").to_pylist()) for table in tables)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert tables[0].drop_columns("feature").equals(tables[1].drop_columns("feature"))


@pytest.mark.slow
@pytest.mark.dist
def test_two_processes_finish_what_one_began_to_the_same_bytes(
    uninterrupted: bytes, shards: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    kill_at(5, shards, out)
    done = finish(shards, out, world=2)
    assert "of 30 parts are there already" in done.stdout
    assert out.read_bytes() == uninterrupted
    assert list(tmp_path.iterdir()) == [out]  # and no parts


@pytest.mark.dist
@pytest.mark.slow
def test_two_processes_killed_three_times_end_with_the_bytes_of_one(
    uninterrupted: bytes, shards: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    for known in (1, 12, 20):
        kill_at(known, shards, out, world=2)
    finish(shards, out, world=2)
    assert out.read_bytes() == uninterrupted


@pytest.mark.dist
@pytest.mark.slow
def test_two_processes_end_with_the_bytes_of_one(
    uninterrupted: bytes, shards: str, tmp_path: Path
) -> None:
    finish(shards, tmp_path / "out.parquet", world=2)
    assert (tmp_path / "out.parquet").read_bytes() == uninterrupted


def test_broken_samples_of_finished_parts_count_too(shards: str, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    config, accelerator = config_of(shards, out), Accelerator(cpu=True)
    strict = replace(config, data=replace(config.data, max_bad_fraction=0.01))
    for _ in range(2):  # found in a batch, and noted in its part
        with pytest.raises(ValueError, match=r"1 of 60 samples are broken.*sample 'broken'"):
            embed(strict, accelerator)
    assert len(list(tmp_path.glob("*.parts/part-*"))) == 1
    assert "1 left out" in embed(config, accelerator)


def test_parts_of_another_command_are_refused(shards: str, tmp_path: Path) -> None:
    out, accelerator = tmp_path / "out.parquet", Accelerator(cpu=True)
    config = config_of(shards, out)
    with pytest.raises(ValueError, match="samples are broken"):
        embed(replace(config, data=DATA), accelerator)
    first = shards.replace("{000000..000001}", "000000")
    for other, message in (
        (replace(config, random=replace(TINY, seed=1)), r"weights_sha256: \w+ -> \w+"),
        (replace(config, random=replace(TINY, std=(0.5,))), r"std: \[0.25\] -> \[0.5\]"),
        (replace(config, data=replace(config.data, pixels="float32")), "pixels: uint8 -> float32"),
        (replace(config, paths=(first, str(out))), "samples: 60 -> 30; shards_sha256: "),
        (replace(config, piece=5), "piece: 10 -> 5"),
    ):
        with pytest.raises(ValueError, match=f"parts of another command.*{message}.*delete the"):
            embed(other, accelerator)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": ("a.tar", "b.tar")}, r"'a.tar b.tar' must be shards, then the file to write"),
        ({"paths": ("out.parquet",)}, r"'out.parquet' must be shards, then the file to write: SHA"),
        ({"paths": ()}, r"'' must be shards, then the file to write: SHARDS OUT.parquet"),
    ],
)
def test_bad_options_are_named(options: dict, message: str, shards: str, tmp_path: Path) -> None:
    config = config_of(shards, tmp_path / "out.parquet")
    with pytest.raises(ValueError, match=message):
        embed(replace(config, **options), Accelerator(cpu=True))
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_is_kept(shards: str, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    out.write_text("mine")
    with pytest.raises(FileExistsError, match=r"out.parquet exists and is never overwritten"):
        embed(config_of(shards, out), Accelerator(cpu=True))
    assert out.read_text() == "mine"


def test_a_finished_call_is_repeated_without_a_write(shards: str, tmp_path: Path) -> None:
    out, accelerator = tmp_path / "out.parquet", Accelerator(cpu=True)
    config = config_of(shards, out)
    embed(config, accelerator)
    written = out.read_bytes(), out.stat()
    folder = tmp_path / "out.parquet.parts"
    for _ in range(2):
        told = embed(replace(config, data=replace(config.data, workers=1)), accelerator)
        assert told.endswith("there already, of the same samples and options; nothing is written")
        assert (out.read_bytes(), out.stat()) == written
        assert list(tmp_path.iterdir()) == [out]
        folder.mkdir()  # left by a kill after all was done
        (folder / "part").touch()
    for other, message in (
        (replace(config, random=replace(TINY, seed=1)), r"weights_sha256: \w+ -> \w+"),
        (replace(config, paths=(shards.replace("..000001", "..000000"), str(out))), "samples: 60 "),
        (replace(config, piece=5), "piece: 10 -> 5"),
    ):
        wanted = f"never overwritten, and it was not made by this command.*{message}.*delete it"
        with pytest.raises(FileExistsError, match=wanted):
            embed(other, accelerator)
    assert (out.read_bytes(), out.stat()) == written


def test_no_flipped_bit_of_the_file_changes_a_row(shards: str, tmp_path: Path) -> None:
    out, generator = tmp_path / "out.parquet", random.Random(0)
    embed(config_of(shards, out), Accelerator(cpu=True))

    def rows() -> tuple[list[dict], torch.Tensor]:
        table = FeatureTable(out)
        return list(table.names()), torch.cat([part for _, part in table.features()])

    names, features = rows()
    content, refused = out.read_bytes(), 0
    for _ in range(150):
        changed, bit = bytearray(content), generator.randrange(8 * len(content))
        changed[bit // 8] ^= 1 << bit % 8
        out.write_bytes(changed)
        try:
            found = rows()
        except ValueError as error:
            assert str(error).startswith(f"{out} is damaged")  # noqa: PT017
            refused += 1
            continue
        assert found[0] == names
        assert torch.equal(found[1], features)
    assert refused > 120


def test_damaged_parts_and_parts_of_no_plan_are_made_again(shards: str, tmp_path: Path) -> None:
    out, accelerator = tmp_path / "out.parquet", Accelerator(cpu=True)
    config = config_of(shards, out)
    embed(config, accelerator)
    whole = out.read_bytes()
    out.unlink()
    strict = replace(config, data=replace(config.data, max_bad_fraction=0.01))
    with pytest.raises(ValueError, match="samples are broken"):
        embed(strict, accelerator)
    (part,) = tmp_path.glob("*.parts/part-*")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    embed(config, accelerator)
    assert out.read_bytes() == whole
    out.unlink()
    folder = tmp_path / "out.parquet.parts"
    folder.mkdir()
    part.write_bytes(content)
    embed(config, accelerator)
    assert out.read_bytes() == whole


def test_a_part_on_another_disk_is_missed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"out.parquet: 1 of 1 parts are missing: all proc"):
        assemble([None], tmp_path / "out.parquet", {})


def test_the_extra_is_named(shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fcmae\[parquet\]'"):
        embed(config_of(shards, tmp_path / "out.parquet"), Accelerator(cpu=True))
