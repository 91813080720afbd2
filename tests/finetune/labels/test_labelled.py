"""Reading labels and groups, each sample once; chosen samples, of which a bad one is replaced."""

from pathlib import Path

import pytest
import torch

from data.bad_samples import BadSamples
from data.config import SourceConfig
from data.dataset import ShardImages
from data.pipeline import batch_loader
from data.shards.samples import ShardSamples
from data.shards.writing import write_shards
from data.targets import ClassTarget, ValueTarget
from finetune.labels import labelled
from finetune.labels.config import InferenceConfig
from finetune.labels.labelled import Chosen, lists_rows, read_groups, read_labelled
from tests.support.images import png
from tests.support.reads import count_reads


def samples_of(folder: Path, *samples: dict) -> ShardSamples:
    """Samples `s0`, `s1`, ... of two shards; those that have no image of their own get one."""
    members = ({"__key__": f"s{i}", "png": png(i), **sample} for i, sample in enumerate(samples))
    return ShardSamples(write_shards(members, folder, "train", -(-len(samples) // 2)))


def test_the_share_of_broken_images_is_that_of_the_flag_in_folders_too(tmp_path: Path) -> None:
    for name, content in (("a/0", png(0)), ("b/1", png(1)), ("b/2", b"no image")):
        path = tmp_path / f"photos/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    folder, source = [str(tmp_path / "photos")], SourceConfig(cache=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"1 of 3 images .* --data\.max_bad_fraction"):
        labelled.samples_of(folder, InferenceConfig(source=source))
    config = InferenceConfig(source=source, max_bad_fraction=0.4)
    assert len(labelled.samples_of(folder, config)) == 2


def test_labels_and_groups_come_from_one_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = ({"cls": i % 3, "json": {"patient": f"p{9 - i // 2}"}} for i in range(10))
    samples = samples_of(tmp_path, *many)
    reads = count_reads(monkeypatch)
    found = read_labelled(samples, ClassTarget(), "patient", BadSamples(10, 0.0))
    assert len(reads) == 10
    assert set(reads.values()) == {1}
    assert found.labels.tolist() == [i % 3 for i in range(10)]
    assert found.samples.tolist() == list(range(10))
    assert found.groups.tolist() == [4, 4, 3, 3, 2, 2, 1, 1, 0, 0]  # in the order of the names
    reads.clear()
    assert torch.equal(read_groups(samples, range(10), "patient"), found.groups)
    assert set(reads.values()) == {1}
    reads.clear()
    assert read_groups(samples, range(4), "").tolist() == [0, 1, 2, 3]
    assert not reads


def test_a_label_of_another_kind_is_left_out_and_counted(tmp_path: Path) -> None:
    fields = ({"size": 1.5, "patient": 1}, {"size": "large"}, {"size": 2, "patient": 1})
    samples, bad = samples_of(tmp_path, *({"json": f} for f in fields)), BadSamples(3, 0.5)
    found = read_labelled(samples, ValueTarget("size"), "patient", bad)
    assert found.labels.tolist() == [[1.5], [2.0]]
    assert found.samples.tolist() == [0, 2]
    assert found.groups.tolist() == [0, 0]
    assert [(sample.key, sample.why) for sample in bad.met] == [
        ("s1", "json field 'size' is 'large', not a number")
    ]
    with pytest.raises(ValueError, match=r"1 of 3 samples are broken.*sample 's1': json field"):
        read_labelled(samples, ValueTarget("size"), "patient", BadSamples(3, 0.1))


@pytest.mark.parametrize(
    ("lists", "rows"),
    [
        ([[0, 1], [1, 0], [1, 0]], True),
        ([[0, 1], [1, 0], [1]], False),
        ([["1", 0], [True, False], "[0, 1]"], True),
        ([[], [0, 1]], False),
        ([[0, 2], [0, 1]], False),
    ],
)
def test_lists_of_a_zero_or_one_for_each_class_are_told_from_class_numbers(
    tmp_path: Path, lists: list, rows: bool
) -> None:
    samples = samples_of(tmp_path, *({"json": {"tags": tags}} for tags in lists))
    assert lists_rows(samples, "tags", 2) == rows


def test_what_a_sample_lacks_is_named_with_its_shard_and_key(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, {"cls": 1, "json": {"object": 1}}, {"json": {"object": 2}})
    with pytest.raises(ValueError, match=r"train-000001\.tar: sample 's1' has no label; fcmae "):
        read_labelled(samples, ClassTarget(), "object", BadSamples(2, 0.0))
    message = r"train-000000\.tar: sample 's0' has no json field 'patient'; it has object: correct"
    with pytest.raises(ValueError, match=message):
        read_groups(samples, (0, 1), "patient")


def test_the_next_chosen_sample_takes_the_place_of_a_bad_one(tmp_path: Path) -> None:
    nonsense = {"png": b"nonsense"}
    samples = samples_of(tmp_path, {}, nonsense, {}, nonsense, {}, nonsense)
    images = ShardImages(samples, size=(8, 8), in_chans=3)
    chosen = Chosen(images, torch.tensor([5, 1, 4]))
    (batch,) = batch_loader(chosen, [[(0, 0), (0, 1), (0, 2)]], workers=1)
    assert batch["key"] == ["s4", "s4", "s4"]
    assert [bad.key for bad in batch["bad"]] == ["s5", "s1", "s1"]
    assert batch["whole"].all()
    assert chosen.name(0).endswith("train-000001.tar: sample 's5'")
    last = Chosen(images, torch.tensor([4, 3]))[(0, 1)]  # s4 comes after it, from the start
    assert last["key"] == "s4"
    with pytest.raises(ValueError, match=r"none of the 2 chosen samples can be read .*'s1'"):
        Chosen(images, torch.tensor([1, 3]))[(0, 0)]
    kept = Chosen(images, torch.tensor([1, 0]), replace=False)[(0, 0)]
    assert (kept["key"], kept["whole"], int(kept["image"].sum())) == ("s1", False, 0)
