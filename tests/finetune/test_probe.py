"""Linear probe and k-NN: their equations, what is held out, and the programs as processes."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from data.shards.writing import write_shards
from fcmae.weights.timm_creation import create_timm
from fcmae.weights.timm_models import save_timm
from finetune.frozen.config import ProbeConfig
from finetune.frozen.features import Features, check_classes, labelled_features
from finetune.frozen.held_out import hold_out, splits
from finetune.frozen.linear import accuracy, train_grid
from finetune.frozen.neighbours import accuracies, neighbours, vote
from finetune.frozen.whitening import whiten
from finetune.labels.config import LabelledData
from finetune.labels.results import spread
from finetune.models.backbone import backbone
from finetune.models.config import RandomConfig
from tests.support.images import png
from tests.support.models import TINY, TINY_FLAGS
from tests.support.programs import run
from tests.support.reads import count_reads
from tests.support.shards import write_colours


def blobs(n: int, seed: int, classes: int = 3) -> Features:
    """Gaussian blobs around three corners, in pairs of related samples."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    x = 3 * F.one_hot(y, 8).float() + 0.5 * torch.randn(n, 8, generator=generator)
    return Features(x, y, torch.arange(n) // 2)


def probe_config(folder: Path, **options: object) -> ProbeConfig:
    data = LabelledData(
        train=(write_colours(folder, "train", 30, shards=2),),
        test=(write_colours(folder, "test", 12, shards=2),),
        workers=0,
    )
    return ProbeConfig(
        **{
            "weights": "none",
            "data": data,
            "out": folder / "out.json",
            "random": TINY,
            **options,
        }
    )


def test_neighbours_are_those_of_brute_force() -> None:
    query, bank = torch.randn(7, 5), torch.randn(20, 5)
    similarity, index = neighbours(query, bank, 4, chunk=3)
    cosine = F.cosine_similarity(query[:, None], bank[None], dim=-1)
    expected = cosine.argsort(dim=1, descending=True)[:, :4]
    assert torch.equal(index, expected)
    torch.testing.assert_close(similarity, cosine.gather(1, expected))


@pytest.mark.parametrize("chunk", [1, 3, 8, 64])
def test_equally_similar_neighbours_come_in_the_order_of_the_bank(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 37, generator=generator)
    kinds = torch.randint(5, (40,), generator=generator)
    similarity, index = neighbours(rows, rows[kinds], 40, chunk=chunk)
    for row in range(5):
        nearest = F.cosine_similarity(rows[row], rows, dim=1).argsort(descending=True)
        expected = torch.cat([(kinds == kind).nonzero().flatten() for kind in nearest])
        assert index[row].tolist() == expected.tolist()
        assert len(similarity[row].unique()) == len(kinds.unique())


def test_votes_weigh_exp_of_similarity_over_temperature() -> None:
    similarity = torch.tensor([[0.9, 0.8, 0.8], [0.9, 0.5, 0.5]])
    labels = torch.tensor([[0, 1, 1], [0, 1, 1]])
    # T = 0.5: e^1.8 = 6.0 < 2 e^1.6 = 9.9; e^1.8 = 6.0 > 2 e^1.0 = 5.4
    assert vote(similarity, labels, 2, 0.5).tolist() == [1, 0]
    assert vote(similarity, labels, 2, 0.01).tolist() == [0, 0]


def test_knn_answers_for_each_k() -> None:
    found = accuracies(blobs(60, 0), blobs(30, 1), (1, 5, 10), 0.07, Accelerator(cpu=True))
    assert found.keys() == {1, 5, 10}
    assert min(found.values()) > 0.9


def test_a_grid_in_one_pass_equals_its_members_alone() -> None:
    data = blobs(50, 0)
    grid = [(1e-2, 0.0), (1e-1, 1e-2), (1e-1, 1e-1)]

    def train(members: list[tuple[float, float]]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return train_grid(data.x, data.y, members, epochs=3, batch_size=16, generator=generator)

    together = train(grid)
    assert together.shape == (3, 9, 3)
    for layer, member in zip(together, grid, strict=True):
        torch.testing.assert_close(layer, train([member])[0])


def test_the_probe_equals_torchs_own_linear_layer() -> None:
    data = blobs(48, 0)
    lr, weight_decay, epochs, size = 0.1, 1e-2, 2, 16
    layer = torch.nn.Linear(8, 3)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    groups = [
        {"params": [layer.weight], "weight_decay": weight_decay},
        {"params": [layer.bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * 3)
    generator = torch.Generator().manual_seed(3)
    for _ in range(epochs):
        for batch in torch.randperm(48, generator=generator).split(size):
            optimizer.zero_grad()
            F.cross_entropy(layer(data.x[batch]), data.y[batch]).backward()
            optimizer.step()
            schedule.step()
    found = train_grid(
        data.x,
        data.y,
        [(lr, weight_decay)],
        epochs=epochs,
        batch_size=size,
        generator=torch.Generator().manual_seed(3),
    )
    torch.testing.assert_close(found[0, :-1], layer.weight.detach().T)
    torch.testing.assert_close(found[0, -1], layer.bias.detach())


def test_accuracy_counts_correct_answers_of_each_layer() -> None:
    x, y = torch.eye(2), torch.tensor([0, 1])
    right = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    biased = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert accuracy(torch.stack([right, biased]), x, y).tolist() == [1.0, 0.5]


def test_held_out_groups_stay_whole() -> None:
    fit, held = hold_out(blobs(100, 0), 0.2, torch.Generator().manual_seed(0))
    assert (len(fit.y), len(held.y)) == (80, 20)
    assert not set(fit.groups.tolist()) & set(held.groups.tolist())
    with pytest.raises(ValueError, match=r"held_out=0.2 of 1 groups leaves one side empty"):
        hold_out(blobs(2, 0), 0.2, torch.Generator().manual_seed(0))


def test_a_class_held_out_whole_is_named_and_counts_as_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, accelerator = blobs(60, 0), Accelerator(cpu=True)
    data.groups[data.y == 2] = 1000  # one group of all of class 2
    config = probe_config(tmp_path, seeds=8)
    chosen = list(splits(data, config.data.held_out, config.seeds, accelerator))
    lost = [seed for seed, (fit, _, _) in enumerate(chosen) if 2 not in fit.y]
    assert 0 < len(lost) < 8
    message = "all samples of classes [2] are held out and will count as wrong; the choice is made"
    assert [line.partition(message)[0] for line in capsys.readouterr().out.splitlines()] == [
        f"seed {seed}: " for seed in lost
    ]
    fit, held, generator = chosen[lost[0]]
    share = (held.y != 2).float().mean().item()
    layers = train_grid(fit.x, fit.y, [(0.1, 0.0)], epochs=20, batch_size=16, generator=generator)
    assert accuracy(layers, held.x, held.y).item() == pytest.approx(share)
    assert accuracies(fit, held, (3,), 0.07, accelerator)[3] == pytest.approx(share)


def test_no_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seeds=0 must be at least 1"):
        next(splits(blobs(9, 0), 0.2, 0, Accelerator(cpu=True)))


def test_classes_without_a_sample_are_named() -> None:
    check_classes(torch.tensor([2, 0, 1, 1]))
    message = r"2 of the classes 0 to 4 have no training sample \(0, 3\): is a shard missing from"
    with pytest.raises(ValueError, match=message):
        check_classes(torch.tensor([1, 2, 4, 4]))
    with pytest.raises(ValueError, match=r"\(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.\): is a shard"):
        check_classes(torch.tensor([2**40]))
    with pytest.raises(ValueError, match=r"all 3 training samples are of class 0: there is noth"):
        check_classes(torch.tensor([0, 0, 0]))


def test_features_are_whitened_by_the_data_they_are_fitted_on() -> None:
    mix = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    fit, other = (blobs(50, 0).x @ mix + 5, blobs(20, 1).x @ mix + 5)
    white, whitened = whiten(fit, other)
    torch.testing.assert_close(white.mean(0), torch.zeros(8), atol=1e-5, rtol=0.0)
    # the ridge is a thousandth of the mean variance: it takes little from the smallest direction
    torch.testing.assert_close(torch.cov(white.T), torch.eye(8), atol=0.1, rtol=0.0)
    assert whitened.mean(0).abs().max() > 1e-3
    (alone,) = whiten(fit[:4])  # fewer samples than features
    assert alone.isfinite().all()


def test_spread_is_the_sample_standard_deviation() -> None:
    assert spread([1.0, 2.0, 3.0]) == {"mean": 2.0, "std": 1.0, "values": [1.0, 2.0, 3.0]}
    assert spread([1.0])["std"] == 0.0


def test_random_weights_are_those_that_pretraining_starts_from() -> None:
    from fcmae import FCMAE

    model, metadata = backbone("none", TINY)
    start = FCMAE(image_size=16, stem_stride=1, generator=torch.Generator().manual_seed(0))
    assert metadata.step == 0
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        ours = start.encoder(images, torch.ones(1, 4, dtype=torch.bool))
        theirs = model.eval().forward_features(images)  # type: ignore[operator]
    torch.testing.assert_close(theirs.flatten(2).mT, ours, rtol=1e-4, atol=1e-5)


def test_features_are_the_mean_over_positions_in_the_order_of_the_shards(tmp_path: Path) -> None:
    train, test, made = labelled_features(probe_config(tmp_path), Accelerator(cpu=True))
    assert train.y.tolist() == [i % 3 for i in range(30)]
    assert made["test_samples"] == 12
    pixels = np.random.default_rng(5).integers(0, 60, (16, 16, 3), dtype=np.uint8)
    pixels[..., 2] += 180
    x = (torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
    model, _ = backbone("none", TINY)
    with torch.no_grad():
        expected = model.eval().forward_features(x).mean((2, 3))[0]  # type: ignore[operator]
    # batches of other sizes take other convolution kernels
    torch.testing.assert_close(test.x[5], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(train.x[5], expected, rtol=1e-4, atol=1e-5)


def test_the_cache_belongs_to_weights_and_shards(tmp_path: Path) -> None:
    accelerator, cache = Accelerator(cpu=True), tmp_path / "cache"
    first = probe_config(tmp_path, cache=cache)
    once = labelled_features(first, accelerator)
    files = sorted(cache.iterdir())
    assert len(files) == 2
    times = [path.stat().st_mtime_ns for path in files]
    again = labelled_features(first, accelerator)
    assert [path.stat().st_mtime_ns for path in sorted(cache.iterdir())] == times
    assert torch.equal(once[0].x, again[0].x)
    other = RandomConfig(**{**vars(TINY), "seed": 1})
    labelled_features(probe_config(tmp_path, cache=cache, random=other), accelerator)
    assert len(list(cache.iterdir())) == 4
    (wide, _, made) = labelled_features(replace(first, pool="stages"), accelerator)
    assert len(list(cache.iterdir())) == 6
    assert (wide.x.shape[1], made["pool"]) == (40 + 80 + 160 + 320, "stages")


def test_broken_samples_are_left_out_and_counted(tmp_path: Path) -> None:
    def sample(i: int) -> dict:
        if i in (4, 20):  # without a label and a group, too
            return {"__key__": f"s{i}", "png": b"no image"}
        return {"__key__": f"s{i}", "png": png(i), "cls": i % 3, "json": {"object": i // 3}}

    write_shards((sample(i) for i in range(30)), tmp_path, "train", 15)
    accelerator, cache = Accelerator(cpu=True), tmp_path / "cache"
    config = probe_config(tmp_path, cache=cache)
    lax = replace(config.data, max_bad_fraction=0.1, group="object")
    for _ in range(2):  # extracted, and from the cache
        train, _, made = labelled_features(replace(config, data=lax), accelerator)
        whole = [i for i in range(30) if i not in (4, 20)]
        assert train.y.tolist() == [i % 3 for i in whole]
        names = np.unique([str(i // 3) for i in whole], return_inverse=True)[1]
        assert train.groups.tolist() == names.tolist()
        assert (made["train_samples"], made["skipped_samples"]) == (28, 2)
    with pytest.raises(ValueError, match=r"train-000000\.tar: sample 's4' has no label"):
        labelled_features(config, accelerator)  # features of the laxer share do not pass for its


def test_what_the_labels_forbid_is_told_before_an_image_is_decoded(tmp_path: Path) -> None:
    everything = range(60)  # broken images: the first that is decoded would be an error
    train = write_colours(tmp_path, "train", 60, broken=everything)
    test = write_colours(tmp_path, "test", 12, broken=everything)
    unlabelled = write_colours(tmp_path, "bare", 6, labels=False, broken=everything)

    def of_one_class(name: str, label: int) -> str:
        samples = ({"__key__": f"{name}{i}", "png": b"?", "cls": label} for i in range(4))
        return write_shards(samples, tmp_path, name, 4)[0].url

    zeros, more, threes = (of_one_class(*c) for c in (("zeros", 0), ("more", 0), ("threes", 3)))
    for sides, group, message in (
        ((train, threes), "", r"the test data has classes \[3\] that the training data lacks: add"),
        ((zeros, more), "", "all 4 training samples are of class 0"),
        ((threes, of_one_class("again", 3)), "", "3 of the classes 0 to 3 have no training sample"),
        ((train, unlabelled), "", r"bare-000000.tar: sample 's0' has no label \(\.cls\)"),
        ((train, test), "patient", "sample 's0' has no json field 'patient'"),
        ((train, test), "", "60 of 60 samples are broken"),  # nothing is wrong with the labels
    ):
        data = LabelledData(train=(sides[0],), test=(sides[1],), group=group, workers=0)
        for cache in (None, tmp_path / "cache"):
            config = probe_config(tmp_path, data=data, cache=cache)
            with pytest.raises(ValueError, match=message):
                labelled_features(config, Accelerator(cpu=True))


def test_shards_are_read_for_the_labels_and_then_for_all_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, accelerator = probe_config(tmp_path, cache=tmp_path / "cache"), Accelerator(cpu=True)
    grouped = replace(config, data=replace(config.data, group="object"))
    reads = count_reads(monkeypatch)
    for times in (2, 1):  # extracted, and from the cache
        reads.clear()
        train, _, _ = labelled_features(grouped, accelerator)
        assert train.groups.tolist() == [
            sorted(map(str, range(10))).index(str(i // 3)) for i in range(30)
        ]
        assert len(reads) == 30 + 12
        assert set(reads.values()) == {times}
    reads.clear()
    labelled_features(config, accelerator)
    assert not reads  # without groups, a cache needs no sample


def test_missing_labels_and_groups_are_named(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    bare = write_colours(tmp_path, "bare", 6, labels=False, shards=2)
    good = write_colours(tmp_path, "good", 6, shards=2)
    test = write_colours(tmp_path, "test", 9, shards=2)
    for train, group, message in (
        (bare, "", r"bare-000000.tar: sample 's0' has no label \(\.cls\); fcmae shards make"),
        (
            good,
            "patient",
            r"'s0' has no json field 'patient'; it has tags, size, object: correct --data.group",
        ),
    ):
        data = LabelledData(train=(train,), test=(test,), group=group, workers=0)
        with pytest.raises(ValueError, match=message):
            labelled_features(probe_config(tmp_path, data=data), accelerator)


def test_a_shard_on_both_sides_is_refused_whatever_its_name(tmp_path: Path) -> None:
    config = probe_config(tmp_path)
    train = tmp_path / "train-000001.tar"
    copy = tmp_path / "other" / "test-000000.tar"
    copy.parent.mkdir()
    shutil.copy(train, copy)
    for test in (train, copy):
        data = replace(config.data, test=(config.data.test[0], str(test)))
        message = rf"{test} is to be tested on, and {train}, which is the same shard, is learned"
        with pytest.raises(ValueError, match=message):
            labelled_features(replace(config, data=data), Accelerator(cpu=True))


PROGRAM_FLAGS = ["--data.group", "object", "--data.workers", "0", "--seeds", "2", "--weights"]
RANDOM_FLAGS = ["none", *TINY_FLAGS]


def run_program(
    module: str, folder: Path, *flags: object, world: int = 1, tests: int = 12
) -> subprocess.CompletedProcess[str]:
    patterns = [
        *("--data.train", write_colours(folder, "train", 60, shards=2)),
        *("--data.test", write_colours(folder, "test", tests, shards=2)),
        *("--out", folder / "out.json"),
    ]
    return run("-m", f"finetune.{module}", *patterns, *PROGRAM_FLAGS, *flags, world=world)


def test_knn_reports_json_and_a_table_on_converted_weights(tmp_path: Path) -> None:
    _, metadata = backbone("none", TINY)
    weights = tmp_path / "weights.safetensors"
    save_timm(weights, create_timm(metadata).state_dict(), metadata)
    done = run_program("knn", tmp_path, str(weights), "--ks", "1", "5")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["test_accuracy"]["mean"] == 1.0  # colour alone tells these classes apart
    assert len(result["chosen"]) == len(result["held_out_accuracy"]["values"]) == 2
    assert (result["train_samples"], result["test_samples"], result["classes"]) == (60, 12, 3)
    assert result["confusion"] == 2 * [{str(i): {str(i): 4} for i in range(3)}]
    assert "test_accuracy" in done.stdout
    assert "confusion" not in done.stdout
    assert "1.0000 +- 0.0000 over 2 seeds" in done.stdout


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize(
    ("module", "chosen", "own"),
    [
        ("linear_probe", {"lr", "weight_decay"}, ()),
        pytest.param("knn", {"k"}, ("--ks", "1", "5", "20"), marks=pytest.mark.slow),
    ],
)
def test_two_processes_share_the_work_and_agree_with_one(
    module: str, chosen: set[str], own: tuple[str, ...], tmp_path: Path
) -> None:
    train, test = (write_colours(tmp_path, f"hard-{n}", n, shards=2, wrong=0.5) for n in (60, 31))
    flags = ("--data.train", train, "--data.test", test, "--seeds", "3", "--pool", "stages", *own)
    results = []
    for world in (1, 2):
        done = run_program(module, tmp_path, *RANDOM_FLAGS, *flags, world=world)
        assert done.returncode == 0, done.stderr
        results.append(json.loads((tmp_path / "out.json").read_text()))
    one, two = results
    assert one == two
    assert 0.4 < one["test_accuracy"]["mean"] < 1.0
    for matrix, share in zip(one["confusion"], one["test_accuracy"]["values"], strict=True):
        right = sum(row.get(name, 0) for name, row in matrix.items())
        assert right / 31 == pytest.approx(share)
        assert sum(sum(row.values()) for row in matrix.values()) == 31
    assert [set(choice) for choice in one["chosen"]] == 3 * [chosen]


ONLINE = """
import sys
from accelerate import Accelerator
from finetune.frozen.neighbours import knn_accuracy
from finetune.labels.config import LabelledData
from finetune.models.backbone import backbone
from tests.support.models import TINY

model, metadata = backbone("none", TINY)
train, test = sys.argv[1:]
data, accelerator = LabelledData(train=(train,), test=(test,), workers=0), Accelerator(cpu=True)
accuracy = knn_accuracy(model, metadata, data, 5, accelerator)
print(accelerator.num_processes, accuracy)
"""


@pytest.mark.slow
@pytest.mark.dist
def test_online_knn_of_two_processes_equals_that_of_one(tmp_path: Path) -> None:
    patterns = [write_colours(tmp_path, f"hard-{n}", n, shards=2, wrong=0.5) for n in (60, 31)]
    (one,), two = (
        run("-c", ONLINE, *patterns, world=world).stdout.splitlines() for world in (1, 2)
    )
    alone, accuracy = one.split()
    assert alone == "1"
    assert 0.4 < float(accuracy) < 1.0
    assert two == 2 * [f"2 {accuracy}"]  # each process is told


@pytest.mark.dist
@pytest.mark.slow
def test_a_process_without_a_sample_waits_for_the_others(tmp_path: Path) -> None:
    done = run_program("knn", tmp_path, *RANDOM_FLAGS, "--ks", "5", world=3, tests=2)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["test_samples"] == 2


def test_more_neighbours_than_samples_end_in_one_line(tmp_path: Path) -> None:
    done = run_program("knn", tmp_path, *RANDOM_FLAGS, "--ks", "100")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "ks=(100,) must lie between 1 and the 48 training samples" in line
    assert "Traceback" not in done.stderr
    done = run_program("knn", tmp_path, *RANDOM_FLAGS, "--ks", "1", "5", "100")
    assert done.returncode == 0, done.stderr
    assert "k of [100] is left out: there are fewer training samples" in done.stdout
