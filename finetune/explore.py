"""A checkpoint in a page on this machine: hide patches, and see what the model makes of them.

fcmae explore runs/mine --data 'datasets/mine/test-*.tar'
"""

from collections.abc import Sequence

from fcmae.run.config import parse
from fcmae.run.extras import extra
from fcmae.run.program import run_program
from finetune.exploring.config import ExploreConfig


def main(argv: Sequence[str]) -> None:
    """Load the checkpoint, and serve the page until Ctrl-C."""
    config = parse(ExploreConfig, argv, description=str(ExploreConfig.__doc__))
    with extra("explore", "the page needs"):  # besides, torch and timm take seconds
        from finetune.exploring.serving import listen, serve

    listening = listen(config.host, config.port)  # before seconds are spent on the checkpoint
    from finetune.exploring.page import page

    serve(page(config), listening, config.host)


if __name__ == "__main__":
    run_program(main)
