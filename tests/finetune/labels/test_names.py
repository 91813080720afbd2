"""Labels of two directories are compared by the names of their classes."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from data.config import SourceConfig
from data.shards.writing import write_shards
from finetune.frozen.config import ProbeConfig
from finetune.frozen.features import labelled_features
from finetune.labels.config import LabelledData
from finetune.labels.labelled import samples_of
from finetune.labels.names import class_names, refuse_other_numbers
from tests.support.images import png
from tests.support.models import TINY
from tests.support.servers import serve


def write(folder: Path, name: str, classes: list[str], count: int) -> str:
    """A shard of samples of the classes in turn, and their names beside it."""
    numbers = [i % max(1, len(classes)) for i in range(count)]
    samples = [
        {"__key__": f"{name}{i}", "png": png(i, (8, 8)), "cls": n} for i, n in enumerate(numbers)
    ]
    write_shards(samples, folder, name, count)
    if classes:
        (folder / "classes.json").write_text(json.dumps(classes))
    return str(folder / f"{name}-000000.tar")


def labels_of(data: LabelledData, spec: tuple[str, ...]) -> list[int]:
    samples = samples_of(spec, data)
    return [int(samples.members(i)["cls"]) for i in range(len(samples))]


def test_names_in_another_order_get_the_numbers_of_the_training_data(tmp_path):
    train = write(tmp_path / "a", "train", ["ant", "ox", "yak"], 6)
    test = write(tmp_path / "b", "test", ["yak", "ant"], 4)
    data = LabelledData(train=(train,), test=(test,), workers=0)
    assert labels_of(data, data.train) == [0, 1, 2, 0, 1, 2]
    assert labels_of(data, data.test) == [2, 0, 2, 0]
    both = LabelledData(train=(train, test), test=(test,), workers=0)
    assert labels_of(both, both.train) == [0, 1, 2, 0, 1, 2, 2, 0, 2, 0]
    assert class_names(samples_of(data.test, data)) == ["yak", "ant"]
    with pytest.raises(ValueError, match=r"b/classes\.json numbers the classes otherwise than"):
        refuse_other_numbers(samples_of(data.test, data))


def test_probes_compare_by_name_and_keep_caches_apart(tmp_path):
    train = write(tmp_path / "a", "train", ["ant", "ox"], 6)
    test = write(tmp_path / "b", "test", ["ox", "ant"], 4)
    data = LabelledData(train=(train,), test=(test,), workers=0)
    config = ProbeConfig(
        weights="none", data=data, out=tmp_path / "o", random=TINY, cache=tmp_path / "cache"
    )
    for _ in range(2):  # the second time from the cache
        _, features, _ = labelled_features(config, Accelerator(cpu=True))
        assert torch.equal(features.y, torch.tensor([1, 0, 1, 0]))
    (tmp_path / "b" / "classes.json").write_text('["ant", "ox"]')
    _, features, _ = labelled_features(config, Accelerator(cpu=True))
    assert torch.equal(features.y, torch.tensor([0, 1, 0, 1]))


def test_a_name_that_training_lacks_is_refused_with_both_lists(tmp_path):
    train = write(tmp_path / "a", "train", ["ant", "ox"], 2)
    test = write(tmp_path / "b", "test", ["ant", "bee"], 2)
    data = LabelledData(train=(train,), test=(test,))
    with pytest.raises(ValueError, match=r"names ant, bee; .* lacks bee and names ant, ox: rename"):
        samples_of(data.test, data)


def test_a_directory_without_names_is_taken_by_number_which_is_said(tmp_path, capsys):
    train = write(tmp_path / "a", "train", ["ant", "ox"], 2)
    test = write(tmp_path / "b", "test", [], 2)
    data = LabelledData(train=(train,), test=(test,))
    assert labels_of(data, data.test) == [0, 0]
    assert capsys.readouterr().err == (
        f"{tmp_path}/b has no classes.json: its labels are taken as numbers of the classes in"
        f" {tmp_path}/a/classes.json\n"
    )


def test_a_class_beyond_the_names_is_refused(tmp_path):
    train = write(tmp_path / "a", "train", ["ant", "ox", "yak"], 3)
    test = write(tmp_path / "b", "test", ["yak", "ox", "ant"], 3)
    (tmp_path / "b" / "classes.json").write_text('["yak", "ox"]')
    data = LabelledData(train=(train,), test=(test,))
    with pytest.raises(ValueError, match=r"is of class 2, but classes\.json beside it names 2"):
        labels_of(data, data.test)


# fsspec and its drivers close their connections when they are collected
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_names_on_a_server_are_read_as_those_on_a_disk(tmp_path, capsys):
    train = write(tmp_path / "a", "train", ["ant", "ox", "yak"], 6)
    write(tmp_path / "b", "test", ["yak", "ant"], 4)
    names = tmp_path / "b" / "classes.json"
    source = SourceConfig(cache=tmp_path / "cache", backoff=0.01, attempts=1)
    with serve(tmp_path) as server:
        remote = (f"{server.url}/b/test-000000.tar",)
        for first in (train, f"{server.url}/a/train-000000.tar"):
            data = LabelledData(train=(first,), test=remote, source=source)
            names.write_text('["yak", "ant"]')
            assert labels_of(data, data.test) == [2, 0, 2, 0]
            assert class_names(samples_of(data.test, data)) == ["yak", "ant"]
            names.write_text('["yak", "bee"]')
            with pytest.raises(ValueError, match=r"b/classes\.json names yak, bee; .* lacks bee"):
                samples_of(data.test, data)
            names.write_text("<html>please log in</html>")
            with pytest.raises(ValueError, match=r"b/classes\.json is no list of the names"):
                samples_of(data.test, data)
            names.unlink()
            assert labels_of(data, data.test) == [0, 1, 0, 1]
            assert "/b has no classes.json: its labels are taken" in capsys.readouterr().err
