"""What share of the model's own speed pretrain.py reaches, on JPEGs that it reads and decodes."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from data.shards.writing import write_shards
from fcmae.run.terminal import say
from scripts.bench.lab import OURS, Lab
from scripts.bench.loading import photograph

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = 64  # that differ; decoding does not know that it sees them again
COPIES = 32
STEPS = 120


def loader_share(lab: Lab) -> float:
    """The images/s of pretrain.py on atto, over those of the model alone in its best mode.

    Raises:
        RuntimeError: pretrain.py has failed.
        TimeoutError: it takes too long.
    """
    model = lab.best(OURS, "atto")
    made = [photograph(seed) for seed in range(2 if lab.dry else PHOTOGRAPHS)]
    images = made * (4 if lab.dry else COPIES)
    with tempfile.TemporaryDirectory() as folder:
        samples = ({"__key__": str(i), "jpg": image} for i, image in enumerate(images))
        write_shards(samples, Path(folder) / "shards", "train", -(-len(images) // 4))
        run = Path(folder) / "run"
        flags = {
            "--data.train": f"{folder}/shards/train-{{000000..000003}}.tar",
            "--model.name": lab.name("atto"),
            "--model.image_size": str(lab.side),
            "--optim.batch_size": str(lab.batch("atto")),
            "--optim.steps": str(4 if lab.dry else STEPS),
            "--run.dir": str(run),
            "--run.log_every": "2" if lab.dry else "10",
            "--run.picture_every": "0",
            "--watch.images": "0",
        }
        words = [sys.executable, "pretrain.py", *(word for pair in flags.items() for word in pair)]
        try:
            done = subprocess.run(
                words,
                cwd=ROOT,
                env=os.environ,
                capture_output=True,
                text=True,
                timeout=min(lab.patience, max(lab.left, 1.0)),
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"pretrain.py takes more than {error.timeout:.0f} s") from error
        if done.returncode:
            raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    settled = lines[len(lines) // 2 :]  # the first steps compile and fill queues
    speed, wait = (
        statistics.median(line[key] for line in settled) for key in ("images_per_s", "data_wait")
    )
    say(
        f"  pretrain.py: {speed:.0f} images/s, data wait {wait:.0%}; the model alone, {model.mode}:"
        f" {model.images_per_s:.0f} images/s; {os.cpu_count()} cores",
        flush=True,
    )
    return speed / model.images_per_s
