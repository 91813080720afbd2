"""Fine-tune a pretrained encoder, or any timm model, on labelled shards, and report on a test.

    fcmae finetune finetune/small --weights OUT.safetensors --data.train SHARDS \
        --data.test SHARDS --out RESULT.json

The first word is a recipe, by its name or as a YAML file, over which flags win. Restarting the same
command resumes. The run lies in RESULT/ beside RESULT.json: config, metrics, checkpoints as
pretraining writes them, weights.safetensors (timm's names, task in the header) and confusion.png.
"""

from collections.abc import Sequence

from fcmae.run.config import parse
from fcmae.run.program import run_program
from fcmae.run.waiting import waiting
from finetune.training.config import WEIGHTS, AugmentConfig, TrainConfig, check_side, run_of

FEW = 5000  # labelled images, with which strong augmentations hide too much


def main(argv: Sequence[str]) -> None:
    """Train, in however many processes were launched, and report."""
    config = parse(TrainConfig, argv, description=str(__doc__))
    directory = run_of(config.out)
    check_side(config.data, config.report_on)
    # torch and timm take seconds, and a help text needs neither
    with waiting("importing PyTorch"):
        from fcmae.run.lock import sole_writer
        from fcmae.run.processes import Processes
        from fcmae.run.starting import start_accelerator
        from finetune.frozen.held_out import sides
        from finetune.labels.results import report
        from finetune.training.classification import read, train

    data = config.data
    processes = Processes(config.run.timeout)
    alone = sole_writer(directory, processes, config.run.timeout / 2)
    with processes.naming_the_lost(), alone:
        accelerator = start_accelerator(processes, config.run.trackers, directory)
        labelled = read(
            data,
            config.task,
            accelerator,
            report_on=config.report_on,
            verify=config.run.verify,
        )
        chosen, validation = sides(labelled.groups, config.report_on, data.held_out, config.seed)
        if len(chosen) < FEW and config.augment == AugmentConfig():
            accelerator.print(
                f"{len(chosen)} labelled images with the augmentations for many: those of the"
                " recipe finetune/small suit few"
            )
        result, draw = train(config, labelled, chosen, validation, processes, accelerator)
        if accelerator.is_main_process:
            then = f"fcmae predict IMAGES --weights {directory / WEIGHTS}"
            report("fine-tuning", result, config.out, draw=draw, then=then)
        accelerator.end_training()


if __name__ == "__main__":
    run_program(main)
