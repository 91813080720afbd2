"""The programs that runs call: the commands of fcmae, and those that are for the tables alone."""

import importlib
from collections.abc import Sequence
from typing import Any

from fcmae import cli

OWN = {
    "altered": "scripts.reproducing.altered",
    "simclr": "scripts.reproducing.simclr",
}


def start(program: str, words: Sequence[str]) -> Any:
    """Run a program in this process, and return what its `main` does.

    Args:
        program: its name.
        words: its arguments.
    """
    if program in OWN:
        return importlib.import_module(OWN[program]).main(words)
    return cli.start(program, words)
