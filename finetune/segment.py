"""Fine-tune a pretrained encoder, or any timm ConvNet, to segment images, and report on a test.

    fcmae segment --weights OUT.safetensors --data.train SHARDS --data.test SHARDS \
        --out RESULT.json

A sample has its mask in the member seg.png, see data/pixel_labels.py. Restarting the same command
resumes. The run lies in RESULT/ beside RESULT.json: config, metrics, checkpoints, samples.png, and
weights.safetensors, which `fcmae predict` and `fcmae export` read. Images and masks are measured
as the model takes them, in `image_size`.
"""

from collections.abc import Sequence

from fcmae.run.config import parse
from fcmae.run.program import run_program
from fcmae.run.waiting import waiting
from finetune.training.config import WEIGHTS, SegmentConfig, check_side, run_of


def main(argv: Sequence[str]) -> None:
    """Train, in however many processes were launched, and report."""
    config = parse(SegmentConfig, argv, description=str(__doc__))
    directory = run_of(config.out)
    check_side(config.data, config.report_on)
    if config.augment.rand_augment:
        raise ValueError(
            f"augment.rand_augment={config.augment.rand_augment} would move pixels away from their"
            " mask: leave it out"
        )
    # torch and timm take seconds, and a help text needs neither
    with waiting("importing PyTorch"):
        from fcmae.run.lock import sole_writer
        from fcmae.run.processes import Processes
        from fcmae.run.starting import start_accelerator
        from finetune.labels.results import report
        from finetune.training.segmentation import segment

    processes = Processes(config.run.timeout)
    alone = sole_writer(directory, processes, config.run.timeout / 2)
    with processes.naming_the_lost(), alone:
        accelerator = start_accelerator(processes, config.run.trackers, directory)
        result, draw = segment(config, processes, accelerator)
        if accelerator.is_main_process:
            weights = directory / WEIGHTS
            then = f"fcmae predict IMAGES --weights {weights} --masks MASKS"
            report("segmentation", result, config.out, draw=draw, then=then)
        accelerator.end_training()


if __name__ == "__main__":
    run_program(main)
