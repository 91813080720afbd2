"""Memory stays bounded however long a run reads."""

import pytest

from data.shards.writing import write_shards
from tests.support.images import png
from tests.support.programs import run

# Resident memory of this process and its workers after each epoch.
READER = """
import sys
from pathlib import Path
import psutil
from data.order import GlobalBatches, Order
from data.config import DataConfig
from data.pipeline import train_loader
from data.shards.reading import open_shards
spec, epochs, batch = sys.argv[1], 20, 16
shards = open_shards(spec)
order = Order([shard.samples for shard in shards], 0, 4)
per_epoch = order.samples // batch
batches = GlobalBatches(order, batch_size=batch, start=0, steps=epochs * per_epoch)
config = DataConfig(train=(spec,), workers=2)
loader = train_loader(shards, config, batches, size=(64, 64), in_chans=3, pin_memory=False)
for step, batch in enumerate(loader, 1):
    if step % per_epoch == 0:
        me = psutil.Process()
        print(sum(p.memory_info().rss for p in (me, *me.children())), flush=True)
"""


@pytest.mark.slow
def test_memory_is_flat_over_20_epochs_with_workers(tmp_path):
    samples = ({"__key__": f"s{i}", "png": png(i, (96, 96))} for i in range(1600))
    write_shards(samples, tmp_path, "train", 100)
    done = run("-c", READER, f"{tmp_path}/train-{{000000..000015}}.tar")
    assert done.returncode == 0, done.stderr
    # the last epoch ends as the workers do, so the one before it is the last to compare
    early, late = (int(done.stdout.split()[epoch]) for epoch in (3, 18))
    assert len(done.stdout.split()) == 20
    # 1,600 images of 28 kB an epoch: one kept in a thousand would be 11 MB by then
    assert late - early < 8e6
