"""What the ranks of a real process group read together: everything, once, in as many steps."""

import json
from collections import Counter
from pathlib import Path

import pytest

from data.shards.writing import write_shards
from tests.support.images import png
from tests.support.programs import run

EPOCHS, SAMPLES, BATCH = 3, 28, 4

READER = """
import json, sys
import torch.distributed as dist
from data.order import GlobalBatches, Order
from data.config import DataConfig
from data.pipeline import train_loader
from data.shards.reading import open_shards
folder, out, epochs, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
for shards in (1, 3, 7):
    spec = f"{folder}/{shards}/train-{{000000..{shards - 1:06d}}}.tar"
    opened = open_shards(spec)
    order = Order([shard.samples for shard in opened], 0, 2)
    steps = epochs * order.samples // batch
    batches = GlobalBatches(order, batch_size=batch, start=0, steps=steps, rank=rank, world=world)
    config = DataConfig(train=(spec,), workers=1)
    seen = []
    for part in train_loader(opened, config, batches, size=(8, 8), in_chans=3, pin_memory=False):
        dist.barrier()
        seen.append([part["epoch"].tolist(), part["sample"].tolist()])
    everyone = [None] * world
    dist.all_gather_object(everyone, seen)
    if rank == 0:
        with open(f"{out}/{shards}.json", "w") as file:
            json.dump(everyone, file)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same 28 images in 1, 3 and 7 shards; 28 in shards of 10 are uneven."""
    root = tmp_path_factory.mktemp("ranks")
    for shards, size in ((1, 28), (3, 10), (7, 4)):
        samples = ({"__key__": f"s{i}", "png": png(i)} for i in range(SAMPLES))
        assert len(write_shards(samples, root / str(shards), "train", size)) == shards
    return root


@pytest.mark.dist
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_read_everything_once_in_as_many_steps(world, folder, tmp_path):
    done = run("-c", READER, folder, tmp_path, EPOCHS, BATCH, world=world)
    assert done.returncode == 0, done.stderr
    for shards in (1, 3, 7):
        ranks = json.loads((tmp_path / f"{shards}.json").read_text())
        assert [len(steps) for steps in ranks] == [EPOCHS * SAMPLES // BATCH] * world
        items = Counter(
            item
            for steps in ranks
            for epochs, samples in steps
            for item in zip(epochs, samples, strict=True)
        )
        assert items == Counter((e, s) for e in range(EPOCHS) for s in range(SAMPLES))
