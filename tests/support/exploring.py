"""What fcmae explore shows in tests: a run, fine-tuned weights, and the page in a process."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from fcmae import FCMAE
from finetune.labels.tasks import Task
from finetune.models import classifier
from finetune.models.config import BackboneConfig, RandomConfig
from tests.support.models import saved_run
from tests.support.programs import ROOT, Program, start, wait_for

TEST = str(ROOT / "data/demo/test-000000.tar.gz")
CLASSES = ("a cat", "<b>dog</b>", "a & b")
THREE = Task(kind="class", field="", names=CLASSES)
SMALL = RandomConfig(image_size=32, stem_stride=1, mean=(0.5,), std=(0.25,))


def pretrained(folder: Path) -> Path:
    """A run whose model takes 32 pixels in 4 x 4 patches."""
    generator = torch.Generator().manual_seed(0)
    model = FCMAE(image_size=32, stem_stride=1, decoder_dim=32, generator=generator)
    saved_run(folder / "run", model, name="convnextv2_atto", stem_stride=1, in_chans=3)
    return folder / "run"


def fine_tuned(folder: Path, task: Task = THREE) -> Path:
    """Weights with a head, by default of classes with hostile names; they have no decoder."""
    path = folder / "weights.safetensors"
    config = BackboneConfig(random=SMALL, head_init_scale=20.0)
    model, metadata = classifier.create(config, task.outputs, 0)
    classifier.save(path, model, metadata, task)
    return path


@contextmanager
def explored(*words: object) -> Iterator[tuple[str, Program]]:
    """The page of a checkpoint, on a free port: its printed URL, and the program, until the end."""
    program = start("-m", "finetune.explore", *words, "--port", "0", "--workers", "0")
    try:
        wait_for(lambda: "Ctrl-C" in program.printed(), program)
        yield next(word for word in program.printed().split() if word.startswith("http")), program
    finally:
        if program.poll() is None:
            program.send_signal(signal.SIGINT)
        program.wait(timeout=60)
