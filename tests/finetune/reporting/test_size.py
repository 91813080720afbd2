"""A report stays small enough to be sent, whatever the runs have."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.reporting.page import page
from finetune.reporting.record import read_runs
from tests.support.watched import peaks, views, write_images, write_step

MOST = 5_000_000  # bytes
CLASSES = [f"class number {i}" for i in range(200)]
BLOCKS = 12


def smooth(count: int, side: int) -> np.ndarray:
    """Pictures as soft as photographs, `[n, 3, h, w]`."""
    small = np.random.default_rng(0).integers(0, 256, (count, 10, 10, 3), np.uint8)
    large = (Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in small)
    return np.stack([np.moveaxis(np.asarray(one), -1, 0) for one in large])


def fill(run: Path, results: Path) -> None:
    """Write a run with a long log, watched images of each look, and results of all kinds."""
    rng = np.random.default_rng(1)
    run.mkdir()
    for file in (*results.glob("*.json"), results / "config.yaml"):
        shutil.copy(file, run)
    lines = (
        {
            "step": 10 * i,
            "loss": 1 / i + rng.random() / 50,
            "lr": 1e-3 / i,
            "grad_norm": rng.random(),
            "images_per_s": 900 + rng.random(),
            "data_wait": rng.random() / 9,
            "memory_gb": 3.5,
            **({"rankme": 50 + rng.random(), "alpha_req": 1.0} if i % 100 == 0 else {}),
            **({"collapse": rng.random(BLOCKS).tolist()} if i % 100 == 0 else {}),
            **({"knn_accuracy": rng.random()} if i % 100 == 0 else {}),
        }
        for i in range(1, 20_001)
    )
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    pixels = smooth(256, 224)
    write_images(run, pixels, (np.arange(256) % 200).tolist(), CLASSES)
    for look in range(16):
        tensors = {"features": rng.normal(size=(256, 320)).astype(np.float16)}
        tensors |= views(pixels, look)
        for stage in range(1, 5):
            tensors |= peaks(stage, list(range(8)), 9)
        tensors |= {f"grn{b}.response": rng.random(1280).astype(np.float32) for b in range(BLOCKS)}
        write_step(run, 1000 * look, tensors)
    answers = rng.integers(0, 200, (200, 50))
    matrix = {
        truth: {
            CLASSES[a]: int(n) for a, n in zip(*np.unique(row, return_counts=True), strict=True)
        }
        for truth, row in zip(CLASSES, answers, strict=True)
    }
    spread = {"test_accuracy": {"values": [0.25, 0.5, 0.75]}, "confusion": 3 * [matrix]}
    for name, chosen in (("own-knn", {"k": 5}), ("own-linear", {"lr": 0.1})):
        result = {"weights": "w.safetensors", "chosen": [chosen], **spread}
        (run / f"{name}.json").write_text(json.dumps(result))


@pytest.mark.slow
def test_a_report_of_three_runs_with_all_that_there_is_stays_below_5_mb(
    made: Path, tmp_path: Path
) -> None:
    runs = [tmp_path / name for name in "abc"]
    for run in runs:
        fill(run, made)
    html = page(read_runs(runs))
    for section in ("curves", "reconstructions", "spectrum", "features", "layers", "results"):
        assert f'<section id="{section}"' in html, section
    assert len(html.encode()) < MOST
