"""The whole masked autoencoder of a pretraining run, with its decoder."""

from dataclasses import fields
from pathlib import Path

from fcmae.model import FCMAE
from fcmae.model_config import ModelConfig
from fcmae.run import checkpoint
from fcmae.run.json_files import as_dataclass
from fcmae.run.whole_tensors import fill
from fcmae.run.yaml_files import read_yaml
from fcmae.weights.checkpoints import find_checkpoint, read_checkpoint
from fcmae.weights.metadata import Metadata


def load_autoencoder(source: str | Path) -> tuple[FCMAE, Metadata]:
    """Load the masked autoencoder of a checkpoint, in evaluation mode, and the metadata.

    Args:
        source: a run, whose newest step is taken, a step directory, or a file of weights in one;
            ema.safetensors has the averaged weights.

    Raises:
        FileNotFoundError: `source` holds no checkpoint.
        OSError: a file cannot be read.
        ValueError: the checkpoint is damaged, or of fine-tuning.
    """
    step = find_checkpoint(Path(source))
    averaged = Path(source).name == checkpoint.EMA
    tensors, metadata = read_checkpoint(step, checkpoint.EMA if averaged else checkpoint.MODEL)
    written = read_yaml(step / checkpoint.CONFIG)["model"]
    known = {
        field.name: written[field.name] for field in fields(ModelConfig) if field.name in written
    }
    model = FCMAE.from_config(as_dataclass(ModelConfig, known))
    fill(model.state_dict(), tensors, step)
    return model.eval(), metadata
