"""The line of networks from LeNet-5 to ConvNeXt V2: trained alike, measured, and explained.

    fcmae lineage      # all systems; again, and it goes on
    fcmae lineage --systems lenet5 resnet18 --seeds 1 --epochs 2
    fcmae lineage --train mine/train --test mine/test --out runs/mine-lineage

Every system is trained from scratch, and where it can be, from masked pretraining on the same
images, with the same passes, optimiser, augmentations and resolution. A signal saves the run that
goes on, and the same command resumes it: `timeout 110m fcmae lineage` works in pieces.
OUT/report.html explains all of it, and shows what each system has come to.
"""

from collections.abc import Sequence
from functools import partial

from fcmae.run.config import parse
from fcmae.run.program import run_program
from fcmae.run.waiting import waiting
from finetune.lineage.config import LineageConfig


def main(argv: Sequence[str]) -> None:
    """Measure and run what is missing, then write the tables and the page.

    Raises:
        OSError: a file cannot be written.
        ValueError: there is no such system, the directory holds runs of another protocol, or some
            systems have failed, after all others are done.
        ModuleNotFoundError: the packages of the page are not installed.
    """
    config = parse(LineageConfig, argv, description=str(__doc__))
    from finetune.lineage.systems import chosen

    systems = chosen(config.systems)
    with waiting("importing PyTorch"):
        from fcmae.cli import start as program
        from fcmae.run.pieces import attempt
        from finetune.lineage import costs, outcome, rows, runs

    runs.check_protocol(config)
    failed = list[str]()
    for system in systems:
        attempt(system.name, partial(costs.measure, config, system), failed)
    told = rows.kept(config) if config.results_page else {}
    for start in runs.starts(config, systems):
        if rows.has(told, start):
            continue
        name = f"{start.system.name}, {start.origin}"
        attempt(name, partial(runs.make, start, program), failed)
    outcome.write(config, told)
    if failed:
        raise ValueError(f"{len(failed)} failed, the others are written: {'; '.join(failed)}")


if __name__ == "__main__":
    run_program(main)
