"""The whole masked autoencoder of a pretraining run, with its decoder."""

from dataclasses import fields
from pathlib import Path

import yaml

from fcmae.architecture import ModelConfig
from fcmae.model import FCMAE
from fcmae.run import checkpoint
from fcmae.weights.files import find_checkpoint, read_checkpoint
from fcmae.weights.metadata import Metadata, as_tuples


def load_autoencoder(source: str | Path) -> tuple[FCMAE, Metadata]:
    """Load the masked autoencoder of a checkpoint, in evaluation mode, and the metadata.

    Args:
        source: a run, whose newest step is taken, or a step directory.

    Raises:
        FileNotFoundError: `source` holds no checkpoint.
        OSError: a file cannot be read.
        ValueError: the checkpoint is damaged, or of fine-tuning.
    """
    step = find_checkpoint(Path(source))
    tensors, metadata = read_checkpoint(step)
    written = as_tuples(yaml.safe_load((step / checkpoint.CONFIG).read_text())["model"])
    known = {field.name for field in fields(ModelConfig)}
    model = FCMAE.from_config(ModelConfig(**{k: v for k, v in written.items() if k in known}))
    checkpoint.fill(model.state_dict(), tensors, step)
    return model.eval(), metadata
