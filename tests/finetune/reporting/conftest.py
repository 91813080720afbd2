"""A short pretraining, and results of all kinds beside a run, made by the programs themselves."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from data.pixel_labels import MASK
from data.shards.writing import write_shards
from finetune import few_shot, knn, linear_probe, segment, train
from scripts import baselines
from tests.support.images import encoded
from tests.support.models import TINY_FLAGS
from tests.support.runs import pretrain
from tests.support.shards import write_colours

CLASSES = ("red", "<b>green</b>", "=blue'\"\u202e")  # names of others, which may be anything


def write_masks(folder: Path, name: str, n: int) -> str:
    """The path of a shard of squares on noise, and masks that tell which of two kinds they are."""

    def sample(i: int) -> dict[str, object]:
        rng = np.random.default_rng(i)
        image, mask = rng.integers(0, 60, (16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8)
        image[4:12, 4:12, i % 2] += 180
        mask[4:12, 4:12] = 1 + i % 2
        return {"__key__": f"{name}{i}", "png": encoded(image), MASK: encoded(mask)}

    write_shards(map(sample, range(n)), folder, name, n)
    return str(folder / f"{name}-000000.tar")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run beside which lie results of each program."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    run = folder / "run"
    train_shard = write_colours(folder, "train", 30, wrong=0.3)
    test_shard = write_colours(folder, "test", 15, wrong=0.3)
    masks = [write_masks(folder, name, 8) for name in ("mask-train", "mask-test")]

    def program(main: Callable[[list[str]], None], name: str, *flags: str) -> None:
        data = ["--data.train", train_shard, "--data.test", test_shard, "--data.workers", "0"]
        main([*data, "--out", str(run / name), *TINY_FLAGS, *flags])

    short = ("--optim.steps", "2", "--optim.batch_size", "4", "--run.log_every", "2")
    program(linear_probe.main, "linear.json", "--weights", "none", "--epochs", "3")
    program(knn.main, "knn.json", "--weights", "none", "--ks", "1", "5")
    for seed in ("0", "1"):
        program(train.main, f"tuned-{seed}.json", "--seed", seed, *short)
    tags = ("--task.kind", "labels", "--task.field", "tags")
    program(train.main, "tags.json", *tags, *short)
    program(train.main, "size.json", "--task.kind", "value", "--task.field", "size", *short)
    few = ("--seeds", "2", "--fractions", "0.2", "0.5", "--probe_epochs", "5")
    program(few_shot.main, "few.json", *few, *short)
    masked = ("--data.train", masks[0], "--data.test", masks[1], "--head_width", "32")
    program(segment.main, "segmented.json", *masked, *short)
    out = str(run / "baselines.json")
    baselines.main(["--train", train_shard, "--test", test_shard, "--out", out])
    (run / "config.yaml").write_text("seed: 0\n")
    return run


@pytest.fixture(scope="session")
def trained() -> Iterator[Path]:
    """The directory of a real run of six steps, which nobody writes into."""
    # not among the folders of pytest, which go with the file of tests that made them
    with TemporaryDirectory() as folder:
        run = Path(folder) / "trained"
        done = pretrain(run, "--watch.collapse_every", "3")
        assert done.returncode == 0, done.stderr
        yield run
