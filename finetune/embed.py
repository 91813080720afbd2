"""Features of every sample of shards, labelled or not, with its name, as a Parquet file.

    fcmae embed SHARDS OUT.parquet --weights OUT.safetensors

The samples are worked off in pieces, which the processes share. A finished piece is a file in
OUT.parquet.parts; the same command goes on from there after a kill. `finetune.lookup` reads the
result.
"""

from collections.abc import Sequence

from fcmae.run.config import parse
from fcmae.run.program import run_program
from fcmae.run.waiting import waiting
from finetune.frozen.config import EmbedConfig


def main(argv: Sequence[str]) -> None:
    """Extract features, and say what was written."""
    config = parse(EmbedConfig, argv, description=str(EmbedConfig.__doc__))
    # torch and timm take seconds, and a help text needs neither
    with waiting("importing PyTorch"):
        from fcmae.run.accelerator import LineAccelerator
        from finetune.frozen.embedding import embed

    accelerator = LineAccelerator()
    accelerator.print(embed(config, accelerator))
    accelerator.print(f"next: fcmae lookup duplicates {config.paths[-1]}")
    accelerator.end_training()


if __name__ == "__main__":
    run_program(main)
