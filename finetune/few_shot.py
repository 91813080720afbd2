"""Few labels: probe and fine-tune on small parts of the training data, pretrained against random.

    fcmae few-shot finetune/small --weights OUT.safetensors --data.train SHARDS \
        --data.test SHARDS --out RESULT.json

The first word is a recipe, by its name or as a YAML file, over which flags win. For each size and
seed the samples are drawn anew, the same for every start and method, with as many of each class as
it has in the whole. The pretrained and the random start have the same model; a seed is that of the
samples, the random start, the head and the order. Each of the runs leaves its result in RESULT/;
restarting the same command goes on. RESULT.png shows the table.
"""

from collections.abc import Sequence

from fcmae.run.config import parse
from fcmae.run.program import run_program
from fcmae.run.waiting import waiting
from finetune.training.config import FewShotConfig, check_side, run_of


def main(argv: Sequence[str]) -> None:
    """Run what is missing, and report."""
    config = parse(FewShotConfig, argv, description=str(__doc__))
    directory = run_of(config.out)
    check_side(config.data, config.report_on)
    if config.task.kind != "class":
        raise ValueError(f"task.kind={config.task.kind}: few-shot learning is of classes")
    # torch and timm take seconds, and a help text needs neither
    with waiting("importing PyTorch"):
        from fcmae.run.lock import sole_writer
        from fcmae.run.processes import Processes
        from fcmae.run.starting import start_accelerator
        from finetune.training.few_labels import few_shot

    processes = Processes(config.run.timeout)
    alone = sole_writer(directory, processes, config.run.timeout / 2)
    with processes.naming_the_lost(), alone:
        accelerator = start_accelerator(processes, config.run.trackers, directory)
        curves = few_shot(config, processes, accelerator)
        if accelerator.is_main_process:
            curves.write(config.out, config.weights, config.pool, config.seeds)
        accelerator.end_training()


if __name__ == "__main__":
    run_program(main)
